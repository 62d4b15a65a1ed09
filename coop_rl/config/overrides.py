"""`--set a.b=c` laid over a config's values; called by `load`.

A value is YAML, read as its field wants it: text is taken as it was typed, and where the field
holds a list, one value is a list of one, and commas part several.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from coop_rl.config.hints import Problem
from coop_rl.config.read import parse_yaml
from coop_rl.config.section_path import SectionPath, drop_fields_of_other_kinds
from coop_rl.errors import ConfigError, printable

NULLS = ("", "~", "null", "Null", "NULL")


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `a.b=c` set.

    Setting the `kind` of a section keeps those of its fields that the new variant has as well.
    """
    merged = copy.deepcopy(values)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted:
            raise ConfigError(f"--set wants section.field=value, got {override!r}")
        names = dotted.split(".")
        section = merged
        for name in names[:-1]:
            if section.get(name) is None:
                section[name] = {}
            if not isinstance(section[name], dict):
                raise ConfigError(
                    f"--set {printable(override)}: {printable(name)} is not a section"
                )
            section = section[name]
        section[names[-1]] = _read(text, names)
        if names[-1] == "kind":
            drop_fields_of_other_kinds(section, names[:-1], section["kind"])
    return merged


def blamed(problem: Problem, overrides: Sequence[str], options: Mapping[str, str]) -> str | None:
    """Return the options that a problem stems from, as they were typed; None: the file's.

    Args:
        problem: What is wrong.
        overrides: What `--set` was given.
        options: Overrides that stand for other options, and how those were typed.
    """
    found = {}
    for override in overrides:
        name = override.partition("=")[0]
        if problem.is_rule:
            within = name.removeprefix(f"{problem.field}.")
            is_meant = re.search(rf"(?<![\w.]){re.escape(within)}(?!\w)", problem.text)
            is_about = is_meant and (within != name or not problem.field)
        else:
            is_about = f"{problem.field}.".startswith(f"{name}.")
            is_about = is_about or name.startswith(f"{problem.field}.")
        if is_about or name == problem.field:
            found[name] = options.get(override, f"--set {override}")
    return ", ".join(found.values()) or None


def _read(text: str, names: Sequence[str]) -> Any:
    """Return the value that a text means for a field.

    Raises:
        ConfigError: It is no YAML, and the field holds no text.
    """
    dotted, problem = ".".join(names), None
    value: Any = text
    try:
        value = parse_yaml(text, f"--set {dotted}", names)
    except yaml.YAMLError:
        problem = f"--set {dotted}: {text!r} is not a YAML value"
    field = SectionPath(names[:-1]).fields.get(names[-1])
    if field is None:  # validation will say so
        return value
    annotation = field.annotation
    if _holds_text(annotation):
        is_quoted = isinstance(value, str) and text.lstrip()[:1] in ("'", '"')
        is_other = (value is not None and not isinstance(value, str)) or text.strip() in NULLS
        return value if is_quoted or (is_other and _accepts(annotation, value)) else text
    items = [item for part in text.split(",") if (item := part.strip())]
    for candidate in (value, text, items):
        if _accepts(annotation, candidate):
            return candidate
    if problem:
        raise ConfigError(problem)
    return value


def _holds_text(annotation: Any) -> bool:
    """Whether a field's type allows any text."""
    is_union = get_origin(annotation) in (Union, UnionType, Annotated)
    return annotation is str or (is_union and any(map(_holds_text, get_args(annotation))))


def _accepts(annotation: Any, value: Any) -> bool:
    """Whether a value is of a field's type; limits are checked when the config is built."""
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        return False
    return True
