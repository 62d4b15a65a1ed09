"""Config files to plain values: YAML without duplicate keys, and `extends: other.yaml`.

JSON files are read as the YAML they are. `load` validates the values.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from coop_rl.config.paths import settle_paths
from coop_rl.config.section_path import drop_fields_of_other_kinds
from coop_rl.errors import ConfigError, first_line

LOGGER = logging.getLogger(__name__)
EXTENDS = "extends"
"""Top-level key of a config that names the file its values are laid over."""


class ConfigLoader(yaml.SafeLoader):
    """The safe loader, but for two scalars: `1e-4` is a number, and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_sections(path: Path) -> dict[str, Any]:
    """Return the sections of a config file, laid over those of the file it extends.

    Raises:
        ConfigError: A file cannot be read or is no mapping, or the extended one extends a third.
    """
    values = read_mapping(path)
    elsewhere = settle_paths(values, path.parent)
    extended = _extended_file(path, values)
    if extended is None:
        _tell(elsewhere, path)
        return values
    named = values.pop(EXTENDS)
    try:
        base = read_mapping(extended)
    except ConfigError as error:
        raise ConfigError(f"{path} extends {named}: {error}") from None
    _tell([*settle_paths(base, extended.parent), *elsewhere], path)
    if EXTENDS in base:
        raise ConfigError(
            f"{path} extends {named}, which itself extends {base[EXTENDS]}; one level is allowed, "
            f"so write what {named} takes from there into {named}"
        )
    return lay_over(base, values)


def config_files(path: Path) -> list[Path]:
    """Return the files a config is read from: itself, and the one it extends."""
    extended = _extended_file(path, read_mapping(path))
    return [path] if extended is None else [path, extended]


def parse_yaml(text: str, origin: str, section: Sequence[str] = ()) -> Any:
    """Return the values of a YAML text, in which no key may stand twice.

    Args:
        text: YAML or JSON.
        origin: Where the text comes from, for the error's text.
        section: Names of the section that the text is the value of; empty for a whole config.

    Raises:
        ConfigError: A mapping in the text has a key twice.
        yaml.YAMLError: The text is not YAML.
    """
    loader = ConfigLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_duplicate_keys(root, origin, tuple(section), set())
        return loader.construct_document(root)
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # !!int x, !!bool x, !!timestamp x; brackets a thousand deep
        raise yaml.YAMLError(f"{type(error).__name__}: {first_line(error)}") from None
    finally:
        loader.dispose()


def read_mapping(path: Path) -> dict[str, Any]:
    """Return a file's own values.

    Raises:
        ConfigError: It cannot be read, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read config {path}: {error.strerror}; give an existing file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"config {path} is not UTF-8; save it as UTF-8") from None
    except ValueError as error:  # a path that no file can have
        raise ConfigError(f"cannot read config {str(path)!r}: {first_line(error)}") from None
    try:
        values = parse_yaml(text, str(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, got {type(values).__name__}")
    return values


def _extended_file(path: Path, values: dict[str, Any]) -> Path | None:
    """Return the file that the config at `path` extends; None: it stands alone."""
    if EXTENDS not in values:
        return None
    named = values[EXTENDS]
    if not isinstance(named, str) or not named or Path(named).is_absolute():
        raise ConfigError(
            f"{path}: extends must name one file by its path from this one, got {named!r}; "
            "write extends: other.yaml"
        )
    return path.parent / named


def _tell(elsewhere: Sequence[str], path: Path) -> None:
    """Say which paths were not found from the config's folder."""
    if elsewhere:
        LOGGER.warning(
            "coop-rl: %s of %s: taken from the working directory %s, not from the config's folder",
            ", ".join(dict.fromkeys(elsewhere)), path, Path.cwd(),
        )  # fmt: skip


def lay_over(
    base: dict[str, Any], overlay: dict[str, Any], section: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return `base` with the values of `overlay`; only mappings are merged, lists are replaced.

    Of a section whose `kind` changes, the fields go that the new variant does not have.
    """
    merged = dict(base)
    if "kind" in overlay and overlay["kind"] != base.get("kind"):
        drop_fields_of_other_kinds(merged, section, overlay["kind"])
    for name, value in overlay.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = lay_over(below, value, (*section, name))
        else:
            merged[name] = value
    return merged


def _refuse_duplicate_keys(
    node: yaml.Node, origin: str, section: tuple[str, ...], seen: set[yaml.Node]
) -> None:
    """Look at a node and all that lies in it; an alias leads to a node already seen."""
    if node in seen:
        return
    seen.add(node)
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _refuse_duplicate_keys(item, origin, (*section, str(number)), seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            identity, names = (key.tag, str(key.value)), (*section, str(key.value))
            line = key.start_mark.line + 1
            if identity in lines:
                both = f"lines {lines[identity]} and {line}"
                where = both if lines[identity] != line else f"twice in line {line}"
                raise ConfigError(f"{origin}: duplicate key {'.'.join(names)}, {where}; keep one")
            lines[identity] = line
            _refuse_duplicate_keys(value, origin, names, seen)
