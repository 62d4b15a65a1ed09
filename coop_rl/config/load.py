"""A config file and `--set a.b=c` to a `RunConfig` or a `ServingConfig`.

Raises `ConfigError`, one line, for everything a user can get wrong here.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from coop_rl.config.read import parse_yaml, read_sections
from coop_rl.config.schema import RunConfig, ServingConfig
from coop_rl.config.section_path import SectionPath, drop_fields_of_other_kinds
from coop_rl.errors import ConfigError

DEFAULT_METHOD = "bridge"
"""What a `method` section without `kind` means."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and validate a run config."""
    return validate(apply_overrides(read_sections(path), overrides), str(path))


def load_serving_config(
    path: Path | None, defaults: dict[str, Any], overrides: Sequence[str] = ()
) -> ServingConfig:
    """Read the sections of a run config that serving needs, override and validate them.

    Args:
        path: A run config or the config.json of a run; None: there is none.
        defaults: Sections whose values replace the file's; None values are ignored.
        overrides: As for `load_config`, applied last.
    """
    found = read_sections(path) if path else {}
    training = RunConfig.model_fields.keys() - ServingConfig.model_fields.keys()
    values = {name: section for name, section in found.items() if name not in training}
    for name, section in defaults.items():
        given = {key: value for key, value in section.items() if value is not None}
        values[name] = {**(values.get(name) or {}), **given}
    values = apply_overrides(values, overrides)
    if unused := sorted(values.keys() & training):
        raise ConfigError(
            f"an evaluation has no section {unused[0]}; it has "
            f"{', '.join(ServingConfig.model_fields)}"
        )
    try:
        return ServingConfig.model_validate(_floats(values))
    except ValidationError as error:
        raise ConfigError(f"{path or 'coop-rl evaluate'}: {_describe(error)}") from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `a.b=c` set, where c is YAML.

    Setting the `kind` of a section keeps those of its fields that the new variant has as well.
    """
    merged: dict[str, Any] = json.loads(json.dumps(values))
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted:
            raise ConfigError(f"--set wants section.field=value, got {override!r}")
        names = dotted.split(".")
        section = merged
        for name in names[:-1]:
            inner = section.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {dotted}: {name} is not a section")
            section = inner
        try:
            value = parse_yaml(text, f"--set {dotted}", names)
        except yaml.YAMLError:
            raise ConfigError(f"--set {dotted}: {text!r} is not a YAML value") from None
        section[names[-1]] = value
        if names[-1] == "kind":
            drop_fields_of_other_kinds(section, names[:-1], value)
    return merged


def validate(values: dict[str, Any], origin: str) -> RunConfig:
    """Build the config; the first problem becomes a `ConfigError` of one line."""
    if isinstance(values.get("method"), dict):
        values = {**values, "method": _with_kinds(values["method"])}
    try:
        return RunConfig.model_validate(_floats(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_describe(error)}") from None


def _with_kinds(method: dict[str, Any]) -> dict[str, Any]:
    """Write the default `kind` into a `method` section and its `rl` section, where it is missing.

    pydantic wants it written out; which estimator is the default, and which of its settings a
    method sets otherwise than the estimator does, depends on the method.
    """
    method = {"kind": DEFAULT_METHOD, **method}
    if isinstance(method.get("rl"), dict):
        fields = SectionPath(["method"]).choose_variant(str(method["kind"])).fields
        kind, settings = "", {}
        if "rl" in fields:
            default = fields["rl"].default
            kind, settings = default.kind, default.model_dump(exclude_defaults=True)
        is_default = method["rl"].get("kind", kind) == kind
        method["rl"] = {"kind": kind, **(settings if is_default else {}), **method["rl"]}
    return method


def _floats(value: Any) -> Any:
    """Read `1e-4` as a number: to YAML 1.1 it is text, since it has no point."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    if isinstance(value, str) and value[:1].isdigit() and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _describe(error: ValidationError) -> str:
    """Return the first problem in one line: which field, what was got, what is allowed."""
    first = error.errors()[0]
    section = SectionPath([str(part) for part in first["loc"][:-1]], names_variants=True)
    # Where variants are open, the location ends with the name of one, which is no field.
    leaf = [] if section.has_open_variants else [str(part) for part in first["loc"][-1:]]
    dotted = ".".join([*section.names, *leaf])
    if first["type"] == "extra_forbidden":
        names = [".".join([*section.names, name]) for name in section.fields]
        nearest = difflib.get_close_matches(dotted, names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"allowed: {', '.join(sorted(names))}"
        return f"unknown config key {dotted}; {hint}"
    if first["type"] == "missing":
        return f"{dotted} is missing; add it to the config"
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        allowed = str(context.get("expected_tags", "")).replace("'", "")
        return f"unknown {dotted}.kind {context.get('tag')!r}; allowed: {allowed}"
    message = first["msg"].removeprefix("Value error, ")
    if not dotted:
        return message
    if isinstance(first["input"], dict):  # a rule of a whole section says itself what it got
        return f"{dotted}: {message}"
    return f"{dotted}: {message}, got {first['input']!r}; change {dotted} in the config"
