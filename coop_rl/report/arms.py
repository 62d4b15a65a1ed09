"""Runs of one config over seeds are an arm; arms are what is compared."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from coop_rl.observability.run_directory import MAY_CHANGE
from coop_rl.report.stored_run import StoredRun, flatten

NOT_THE_METHOD = ("run.", *MAY_CHANGE)
"""Fields that say where, how long and from which seed a run computes, not what."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[StoredRun, ...]

    @property
    def by_seed(self) -> dict[int, tuple[StoredRun, ...]]:
        """Its runs by seed, in the order given."""
        seeds = dict.fromkeys(run.seed for run in self.runs)
        return {seed: tuple(run for run in self.runs if run.seed == seed) for seed in seeds}


def arms_of(runs: Sequence[StoredRun]) -> list[Arm]:
    """Group runs by what they compute, in the order given; runs of one config stand each alone."""
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(settings(run), sort_keys=True), []).append(run)
    if len(groups) == 1:
        return [Arm(name, (run,)) for name, run in zip(_distinct(runs), runs, strict=True)]
    found = list(groups.values())
    return [Arm(name, tuple(group)) for name, group in zip(_names(found), found, strict=True)]


def settings(run: StoredRun) -> dict[str, object]:
    """Return the fields that decide what a run computes."""
    flat = flatten(run.config)
    return {name: value for name, value in flat.items() if not name.startswith(NOT_THE_METHOD)}


def differing_fields(runs: Sequence[StoredRun]) -> list[str]:
    """Return the config's fields in which runs differ, but for their names and folders."""
    flats = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for flat in flats for name in flat)
    absent = object()
    return [
        name
        for name in names
        if name not in ("run.name", "run.dir")
        and any(flat.get(name, absent) != flats[0].get(name, absent) for flat in flats[1:])
    ]


def differing_settings(arms: Sequence[Arm]) -> list[str]:
    """Return the fields in which arms differ, of those that decide what a run computes."""
    fields = differing_fields([arm.runs[0] for arm in arms])
    return [name for name in fields if not name.startswith(NOT_THE_METHOD)]


def _names(groups: Sequence[Sequence[StoredRun]]) -> list[str]:
    """Return the folders' common name without the seed; else the method; else what differs."""
    stems = [{re.sub(r"[-_.]?\d+$", "", run.name) for run in group} for group in groups]
    folders = ["/".join(sorted(stem)) for stem in stems]
    if all(len(stem) == 1 for stem in stems) and all(folders) and _is_distinct(folders):
        return folders
    methods = [group[0].method for group in groups]
    if _is_distinct(methods):
        return methods
    firsts = [group[0] for group in groups]
    fields = [name for name in differing_fields(firsts) if not name.startswith(NOT_THE_METHOD)]
    flats = [flatten(run.config) for run in firsts]
    told = [", ".join(f"{name}={flat.get(name)}" for name in fields[:2]) for flat in flats]
    return told if _is_distinct(told) else _distinct(firsts)


def _distinct(runs: Sequence[StoredRun]) -> list[str]:
    """Return the folders' names, with their parents' where two have the same."""
    names = [run.name for run in runs]
    if _is_distinct(names):
        return names
    return [f"{run.path.parent.name}/{run.name}" for run in runs]


def _is_distinct(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)
