"""YAML or JSON file plus `--set a.b=c` to a `RunConfig` or a `ServingConfig`, one-line errors.

Raises `ConfigError` for everything a user can get wrong here.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from coop_rl.config.schema import RunConfig, ServingConfig
from coop_rl.errors import ConfigError

DEFAULT_METHOD = "bridge"
"""What a `method` section without `kind` means."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and validate a run config."""
    return validate(apply_overrides(_read(path), overrides), str(path))


def load_serving_config(
    path: Path | None, defaults: dict[str, Any], overrides: Sequence[str] = ()
) -> ServingConfig:
    """Read what serving needs of a run config, override and validate it.

    Args:
        path: A run config or the config.json of a run; None: there is none.
        defaults: Values by section that take the place of the file's; what is None counts not.
        overrides: As for `load_config`, applied last.
    """
    found = _read(path) if path else {}
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


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read config {path}: {error.strerror}; give an existing file"
        ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(values).__name__}")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `values` with each `a.b=c` set; c is read as YAML."""
    merged: dict[str, Any] = json.loads(json.dumps(values))
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted:
            raise ConfigError(f"--set wants section.field=value, got {override!r}")
        node = merged
        *parents, leaf = dotted.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {dotted}: {parent} is not a section")
            node = child
        try:
            node[leaf] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {dotted}: {text!r} is not a YAML value") from None
        if leaf == "kind" and len(node) > 1:
            _drop_fields_of_other_kind(dotted, node)
    return merged


def _drop_fields_of_other_kind(dotted: str, node: dict[str, Any]) -> None:
    """Changing a variant by `--set x.kind=` leaves the fields the new variant shares."""
    fields = _Place(dotted.split(".")[:-1]).variant(str(node["kind"])).fields
    for name in list(node):
        if fields and name not in fields:
            del node[name]


def validate(values: dict[str, Any], origin: str) -> RunConfig:
    """Build the config; the first problem becomes a `ConfigError` of one line."""
    if isinstance(values.get("method"), dict):
        values = {**values, "method": _with_kinds(values["method"])}
    try:
        return RunConfig.model_validate(_floats(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_describe(error)}") from None


def _with_kinds(method: dict[str, Any]) -> dict[str, Any]:
    """Name the variants of a `method` section and of its `rl` section."""
    method = {"kind": DEFAULT_METHOD, **method}
    if isinstance(method.get("rl"), dict):
        fields = _Place(["method"]).variant(str(method["kind"])).fields
        default = fields["rl"].default.kind if "rl" in fields else ""
        method["rl"] = {"kind": default, **method["rl"]}
    return method


def _floats(value: Any) -> Any:
    """Read `1e-4` as a number: YAML 1.1 takes it for text unless it has a point."""
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
    first = error.errors()[0]
    place = _Place([str(part) for part in first["loc"][:-1]], names_variants=True)
    leaf = [] if place.is_open else [str(part) for part in first["loc"][-1:]]
    dotted = ".".join([*place.names, *leaf])
    if first["type"] == "extra_forbidden":
        names = [".".join([*place.names, name]) for name in place.fields]
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
    if isinstance(first["input"], dict):  # a rule of a whole section names what it got itself
        return f"{dotted}: {message}"
    return f"{dotted}: {message}, got {first['input']!r}; change {dotted} in the config"


class _Place:
    """A section of the config, found by its dotted name or by pydantic's location.

    The latter names the chosen variant after every section that has several.
    """

    def __init__(self, location: Sequence[str], *, names_variants: bool = False) -> None:
        self.names: list[str] = []
        self._models: list[type[BaseModel]] = [RunConfig]
        self._is_keyed = False
        """Whether here are several sections, by name or number, and none is chosen."""
        for part in location:
            if names_variants and self.is_open:
                self.variant(part)
                continue
            self.names.append(part)
            if self._is_keyed:
                self._is_keyed = False
                continue
            field = self.fields.get(part)
            self._models = _models_in(field.annotation) if field else []
            self._is_keyed = field is not None and get_origin(field.annotation) in (list, dict)

    @property
    def is_open(self) -> bool:
        """Whether there are several variants here and none is chosen."""
        return len(self._models) > 1 and not self._is_keyed

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The fields of this section (of its first variant, where none is chosen)."""
        return dict(self._models[0].model_fields) if self._models else {}

    def variant(self, kind: str) -> "_Place":
        """Choose the variant `kind`, if there is one."""
        chosen = [m for m in self._models if "kind" in m.model_fields]
        self._models = [m for m in chosen if m.model_fields["kind"].default == kind] or self._models
        return self


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
