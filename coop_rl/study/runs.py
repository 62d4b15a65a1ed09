"""How the runs of a study stand, and what those that have finished hold.

run folders --------------+--> Progress --> what is missing, what tables are made of
what an export holds -----+
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from pydantic import ValidationError

from coop_rl.config import RunConfig
from coop_rl.config.hints import describe
from coop_rl.config.paths import settle_paths
from coop_rl.errors import RunDirectoryError
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.metric_names import REWARD
from coop_rl.observability.run_directory import describe_change, flatten
from coop_rl.report.comparison import LAST_STEPS
from coop_rl.report.stored_run import Row, StoredRun, numbers, read_object, read_run
from coop_rl.report.summary import seconds_of
from coop_rl.study.grid import Contrast, Grid
from coop_rl.study.planned import PlannedRun, Study, run_name

State = Literal["done", "half-way", "failed", "not begun"]
Results = dict[str, dict[int, EvaluationResult]]
TRAINING_REWARD = "training reward"


@dataclass(frozen=True)
class StudyRun(StoredRun):
    """A run of a study, read from its folder or from the study's archive."""

    arm: str = ""
    trial: int | None = None
    archived: Results | None = None
    """Its evaluations, where they do not lie in its folder."""

    @property
    def name(self) -> str:
        """How tables and pages call it."""
        return run_name(self.arm, self.seed, self.trial)

    @cached_property
    def results(self) -> Results:
        """Stored evaluations by set and by steps trained before them."""
        return super().results if self.archived is None else self.archived

    @property
    def seconds(self) -> float | None:
        """Time from start to end; None where it paused between."""
        return None if self.status.get("num_resumes") else seconds_of(self.status)

    def measured(self, metric: str) -> list[float]:
        """Return the values of a metric, of training steps or of evaluations, in order."""
        return numbers((*self.steps, *self.evaluations), metric)


ByArm = Mapping[str, Mapping[int, StudyRun]]
"""Runs by arm and seed."""


def runs_of(contrast: Contrast, by_arm: ByArm) -> list[tuple[StudyRun, StudyRun]]:
    """Return the runs of a contrast's arm, each with its reference's of the same seed."""
    arm, reference = by_arm.get(contrast.arm, {}), by_arm.get(contrast.reference, {})
    return [(run, reference[seed]) for seed, run in sorted(arm.items()) if seed in reference]


def state_of(run: PlannedRun) -> State:
    """Return how a planned run stands.

    Raises:
        RunDirectoryError: Its folder holds a run with another config.
    """
    stored = read_object(run.folder / "config.json")
    if stored is None:
        return "not begun"
    if change := change_of(stored, run.config):
        raise RunDirectoryError(
            f"{run.folder} holds another run than the grid declares, with {change}; set the grid "
            "back, move that folder away, or give another --study-dir"
        )
    status = (read_object(run.folder / "run.json") or {}).get("status")
    if status == "finished":
        return "done"
    return "failed" if status == "failed" else "half-way"


@dataclass(frozen=True, slots=True)
class Progress:
    """What of a study is done: in its folder, or by what was exported on another machine."""

    exported: Mapping[str, StudyRun] = field(default_factory=dict)
    """Runs by name."""

    def state_of(self, run: PlannedRun) -> State:
        """Return how a planned run stands.

        Raises:
            RunDirectoryError: Its folder holds a run with another config.
        """
        own = state_of(run)
        return "done" if run.name in self.exported else own

    def finished(self, runs: Iterable[PlannedRun]) -> list[StudyRun]:
        """Return those runs that have finished; the folder counts before an export."""
        found = []
        for run in runs:
            if state_of(run) == "done":
                found.append(read_study_run(run))
            elif run.name in self.exported:
                found.append(self.exported[run.name])
        return found

    def missing(self, runs: Iterable[PlannedRun]) -> list[PlannedRun]:
        """Return those runs that have not finished, one of those that share a folder."""
        waiting: dict[Path, PlannedRun] = {}
        for run in runs:
            if self.state_of(run) != "done":
                waiting.setdefault(run.folder, run)
        return list(waiting.values())


def change_of(stored: Row, config: RunConfig) -> str | None:
    """Return the first field in which a stored config is not the declared one."""
    settle_paths(stored, Path.cwd())  # of an older run, or of an export, they may be relative
    try:
        found = RunConfig.model_validate(stored)  # fields that came later are at their defaults
    except ValidationError as error:
        return f"a config that is none today: {describe(error).text}"
    if found.run.num_steps != config.run.num_steps:
        return f"run.num_steps {found.run.num_steps}, got {config.run.num_steps}"
    return describe_change(flatten(found.model_dump(mode="json")), config)


def read_study_run(run: PlannedRun) -> StudyRun:
    """Read a run's folder."""
    stored = read_run(run.folder)
    return StudyRun(**vars(stored), arm=run.arm, trial=run.trial)


def error_of(run: PlannedRun) -> str | None:
    """Return why a run failed; None: it did not."""
    status = read_object(run.folder / "run.json") or {}
    return str(status.get("error")) if status.get("status") == "failed" else None


def last_reward(run: StoredRun) -> float | None:
    """Return the mean training reward over the last steps; None where nothing was sampled."""
    rewards = numbers(run.steps, REWARD)[-LAST_STEPS:]
    return fmean(rewards) if rewards else None


def at_end(run: StudyRun, set_name: str, figure: str) -> float | None:
    """Return a figure after the last step; None where it was not measured there."""
    if figure == TRAINING_REWARD:
        return last_reward(run)
    results = run.results.get(set_name, {})
    last = results.get(max(results)) if results and max(results) else None
    return fmean(last.item_values(figure)) if last else None


def choose(study: Study, trials: Sequence[StudyRun]) -> dict[str, int]:
    """Return the trial that each arm takes; arms with trials still to run are left out."""
    chosen = {}
    for arm in study.trials:
        trial = taken_trial(study.grid, arm, [run for run in trials if run.arm == arm])
        if trial is not None:
            chosen[arm] = trial
    return chosen


def taken_trial(grid: Grid, arm: str, runs: Sequence[StudyRun]) -> int | None:
    """Return the trial that an arm takes, None while some of its trials are still to run.

    It is the one with the highest training reward over the last steps, the mean of its seeds; of
    equal ones the first.
    """
    if len(runs) < len(grid.trials[arm]) * len(grid.trial_seeds):
        return None
    rewards = trial_rewards(runs)
    return max(rewards, key=lambda n: -math.inf if (r := rewards[n]) is None else r)


def trial_rewards(runs: Sequence[StudyRun]) -> dict[int, float | None]:
    """Return the training reward of an arm's trials, by their numbers."""
    rewards: dict[int, list[float | None]] = {}
    for run in runs:
        if run.trial is not None:
            rewards.setdefault(run.trial, []).append(last_reward(run))
    return {
        number: None if None in own else fmean(reward or 0.0 for reward in own)
        for number, own in sorted(rewards.items())
    }


def median_seconds(runs: Sequence[StudyRun]) -> Mapping[str, float]:
    """Return the median seconds of an arm's finished runs, by arm."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        if run.seconds is not None:
            seconds.setdefault(run.arm, []).append(run.seconds)
    return {arm: median(own) for arm, own in seconds.items()}


def write_declared(run: PlannedRun) -> None:
    """Write the config that a run is started from.

    Raises:
        RunDirectoryError: It cannot be written.
    """
    try:
        run.declared.parent.mkdir(parents=True, exist_ok=True)
        values = json.loads(run.config.model_dump_json())
        run.declared.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {run.declared}: {error.strerror}; give another --study-dir"
        ) from None
