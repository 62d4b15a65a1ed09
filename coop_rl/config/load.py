"""A config file and `--set a.b=c` to a `RunConfig` or a `ServingConfig`.

Raises `ConfigError`, one line, for everything a user can get wrong here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from coop_rl.config.hints import describe
from coop_rl.config.overrides import apply_overrides, blamed
from coop_rl.config.paths import settle_paths
from coop_rl.config.read import read_sections
from coop_rl.config.schema import RunConfig, ServingConfig
from coop_rl.config.section_path import SectionPath
from coop_rl.errors import ConfigError, printable
from coop_rl.redaction import path_of_secret

DEFAULT_METHOD = "bridge"
"""What a `method` section without `kind` means."""
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
Config = TypeVar("Config", bound=ServingConfig)


def load_config(
    path: Path, overrides: Sequence[str] = (), options: Mapping[str, str] = NO_OPTIONS
) -> RunConfig:
    """Read, override and validate a run config.

    Args:
        path: Of the config.
        overrides: What `--set` was given; its paths are from the working directory.
        options: Overrides that stand for other options, and how those were typed.
    """
    return build_config(read_sections(path), str(path), overrides, options)


def build_config(
    sections: Mapping[str, Any],
    origin: str,
    overrides: Sequence[str] = (),
    options: Mapping[str, str] = NO_OPTIONS,
) -> RunConfig:
    """Override and validate the sections of a run config, which come from `origin`."""
    values = apply_overrides(dict(sections), overrides)
    if isinstance(values.get("method"), dict):
        values["method"] = _with_kinds(values["method"])
    return _validate(RunConfig, values, origin, overrides, options)


def load_serving_config(
    path: Path | None,
    defaults: dict[str, Any],
    overrides: Sequence[str] = (),
    options: Mapping[str, str] = NO_OPTIONS,
) -> ServingConfig:
    """Read the sections of a run config that serving needs, override and validate them.

    Args:
        path: A run config or the config.json of a run; None: there is none.
        defaults: Sections whose values replace the file's; None values are ignored.
        overrides: As for `load_config`, applied last.
        options: As for `load_config`.
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
    return _validate(ServingConfig, values, str(path or "coop-rl evaluate"), overrides, options)


def _validate(
    model: type[Config],
    values: dict[str, Any],
    origin: str,
    overrides: Sequence[str],
    options: Mapping[str, str],
) -> Config:
    """Build a config; its first problem becomes a `ConfigError` that blames a file or an option."""
    settle_paths(values, Path.cwd())
    if secret := path_of_secret(values):
        raise ConfigError(
            f"{origin}: {secret} holds what looks like a secret, which config.json and checkpoints "
            "would keep; log in before, or set it in the environment"
        )
    given = {name: section for name, section in values.items() if section is not None}
    try:
        config = model.model_validate(given)
        config.model_dump_json()  # as config.json keeps it
    except PydanticSerializationError:
        raise ConfigError(
            f"{origin}: a text holds half a character (\\ud800 to \\udfff), which no file takes; "
            "write the whole one"
        ) from None
    except ValidationError as error:
        problem = describe(error)
        culprit = blamed(problem, overrides, options) or origin
        raise ConfigError(printable(f"{culprit}: {problem.text}")) from None
    return config


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
