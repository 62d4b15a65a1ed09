"""Paths in a config: from the folder of its file, or, where nothing is there, from where one is.

read, file by file --settle_paths--> load, with what `--set` gave --settle_paths--> RunConfig
"""

import os
import re
from collections.abc import Iterator
from glob import iglob
from pathlib import Path
from typing import Any

PACKAGES = "working_dir_files"
"""The folder Ray unpacks the working directories of jobs in."""
SOURCES = ("prompts", "prompts.mixture.*", "demonstrations", "demonstrations.mixture.*",
           "evaluation.data", "evaluation.more_data.*")  # fmt: skip
MAY_BE_HUB_IDS = ("model.path", *(f"{source}.dataset.name" for source in SOURCES))
PATHS = (
    *MAY_BE_HUB_IDS,
    *(f"{source}.path" for source in SOURCES),
    "evaluation.data_dir",
    "reward.function",
    "reward.parts.*.function",
)
"""Fields that name what a run reads; `*` stands for every item. What it writes (`run.dir`) is from
the working directory, as the command's other outputs are."""


def settle_paths(values: dict[str, Any], folder: Path) -> list[str]:
    """Write the paths of a config's values, in place, as absolute ones.

    A path that is neither in `folder` nor in the working directory is meant to be in `folder`,
    unless it may name a model or a data set of the hub. In the package of a Ray job paths are from
    the working directory, since the next job's package lies elsewhere.

    Returns:
        The fields that name something that only the working directory has.
    """
    elsewhere = []
    for dotted in PATHS:
        *names, leaf = dotted.split(".")
        for section in _sections(values, names):
            given = section.get(leaf)
            if isinstance(given, str) and given:
                section[leaf], is_elsewhere = _settle(given, folder, dotted)
                elsewhere += [dotted] if is_elsewhere else []
            elif isinstance(given, list) and all(isinstance(text, str) for text in given):
                found = [_settle(text, folder, dotted) for text in given]
                section[leaf] = [path for path, _ in found]
                elsewhere += [dotted] if any(is_elsewhere for _, is_elsewhere in found) else []
    for section in _sections(values, ["run"]):
        if isinstance(section.get("dir"), str):
            section["dir"] = os.path.expanduser(section["dir"])  # noqa: PTH111
    return elsewhere


def files_matching(path: str) -> list[Path]:
    """Return the files that a path with `*` (or `**`, through folders) matches, or that path."""
    if "*" not in path:
        return [Path(path)]
    pattern = re.sub(r"([?[])", r"[\1]", path)  # only the star has a meaning of its own
    # pathlib refuses patterns such as a**b.
    found = [Path(name) for name in iglob(pattern, recursive=True)]  # noqa: PTH207
    return sorted(file for file in found if file.is_file())


def shown(path: str) -> str:
    """Return a path as a reader wants it: from the working directory, where it lies in there."""
    is_below = Path(path).is_absolute() and Path(path).is_relative_to(Path.cwd())
    return os.path.relpath(path) if is_below else path


def _sections(values: Any, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the sections of that name, of which a list or a mapping may hold several."""
    if not names:
        if isinstance(values, dict):
            yield values
    elif names[0] != "*":
        if isinstance(values, dict):
            yield from _sections(values.get(names[0]), names[1:])
    elif isinstance(values, list | dict):
        for item in values.values() if isinstance(values, dict) else values:
            yield from _sections(item, names[1:])


def _settle(text: str, folder: Path, field: str) -> tuple[str, bool]:
    """Return where a path leads, and whether that is in the working directory only."""
    if field.endswith(".function"):
        file, _, function = text.rpartition(":")
        if not file.endswith(".py"):  # a module
            return text, False
        path, is_elsewhere = _settle(file, folder, "")
        return f"{path}:{function}", is_elsewhere
    path = os.path.expanduser(text)  # noqa: PTH111 - `~` of nobody stays as it is
    beside, here = _absolute(folder, path), _absolute(Path.cwd(), path)
    if not _exists(beside) and _exists(here):
        return _lasting(here), True
    if not _exists(beside) and field in MAY_BE_HUB_IDS and _may_be_hub_id(path, folder):
        return text, False
    return _lasting(beside), False


def _absolute(folder: Path, path: str) -> str:
    return os.path.abspath(folder / path)  # noqa: PTH100 - takes `..` out, follows no link


def _exists(path: str) -> bool:
    # pathlib raises where a name is too long.
    return os.path.exists(path) or ("*" in path and bool(files_matching(path)))  # noqa: PTH110


def _may_be_hub_id(path: str, folder: Path) -> bool:
    parts = path.split("/")
    is_inside = os.path.isdir(folder / parts[0])  # noqa: PTH112 - as above
    return len(parts) <= 2 and path[0] not in "./~" and not is_inside


def _lasting(path: str) -> str:
    """Return what leads there in a later job of the run, too."""
    here = Path.cwd()
    is_in_package = PACKAGES in here.parts and Path(path).is_relative_to(here)
    return os.path.relpath(path) if is_in_package else path
