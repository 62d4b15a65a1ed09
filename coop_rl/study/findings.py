"""What a study found: figures of every arm, the declared contrasts, and what G foretold.

    StudyRun by arm and seed --+-- arms       over the seeds that every arm has finished
                               +-- contrasts  over the seeds both arms have, at equal cost
                               +-- gains      the logged G against a separate RL run

Only what the grid declares is computed. No checkpoint is chosen: figures are those at the end, or
at equal cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from coop_rl.report.stored_run import StoredRun
from coop_rl.study.contrasts import (
    ContrastFinding,
    DiagnosticFinding,
    contrast_findings,
    diagnostic_findings,
)
from coop_rl.study.equal_cost import STUDY_AXES
from coop_rl.study.gains import GainFinding, gain_findings
from coop_rl.study.grid import Grid
from coop_rl.study.mean import Mean, mean_of
from coop_rl.study.runs import (
    TRAINING_REWARD,
    ByArm,
    StudyRun,
    at_end,
    taken_trial,
    trial_rewards,
)


@dataclass(frozen=True, slots=True)
class ArmFinding:
    """One arm over the seeds that every arm has finished."""

    arm: str
    figures: Mapping[str, Mean]
    """Figures at the end, by name."""
    diagnostics: Mapping[str, tuple[float, float] | None]
    """Of each declared metric the median over steps and seeds, and the mean of its last values."""


@dataclass(frozen=True, slots=True)
class CostFinding:
    """What the finished runs of one arm took, of all its seeds."""

    arm: str
    num_runs: int
    num_steps: int
    """Of a run."""
    generated_tokens: float
    """Mean of a run."""
    device_seconds: float
    """Mean of a run."""
    minutes: float | None
    """Median of a run that was not interrupted, start-up and evaluations included."""


@dataclass(frozen=True, slots=True)
class TrialFinding:
    """One setting that was tried for an arm."""

    arm: str
    trial: int
    reward: float | None
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it."""

    num_seeds: int
    """Seeds that every arm has finished."""
    before: Mapping[str, float]
    """Figures before training, the mean over runs."""
    arms: Sequence[ArmFinding]
    contrasts: Sequence[ContrastFinding]
    fresh: Sequence[ContrastFinding]
    """Those of the primary figure over the seeds that were not known before the declaration; empty
    where none were."""
    gains: Sequence[GainFinding]
    diagnostics: Sequence[DiagnosticFinding]
    trials: Sequence[TrialFinding]
    costs: Sequence[CostFinding]
    protocol: str
    """How responses were sampled for the figures."""
    commits: Sequence[str]
    """Of the code that trained."""


def find(grid: Grid, set_name: str, runs: Sequence[StudyRun]) -> Findings:
    """Compute a study's findings from its finished runs."""
    own = [run for run in runs if run.trial is None]
    by_arm = {arm: {r.seed: r for r in own if r.arm == arm} for arm in grid.arms}
    by_arm = {arm: found for arm, found in by_arm.items() if found}
    seeds = [s for s in grid.seeds if by_arm and all(s in found for found in by_arm.values())]
    figures = (grid.primary, grid.second)
    first = own[0] if own else None
    return Findings(
        len(seeds),
        {figure: fmean(v) for figure in figures if (v := list(_before(own, set_name, figure)))},
        [_arm(grid, set_name, arm, [found[s] for s in seeds]) for arm, found in by_arm.items()]
        if seeds
        else [],
        [
            finding
            for figure in (*figures, TRAINING_REWARD)
            for axis in STUDY_AXES
            for finding in contrast_findings(grid, set_name, figure, axis, by_arm)
        ],
        [
            finding
            for axis in STUDY_AXES
            if grid.known_seeds
            for finding in contrast_findings(
                grid, set_name, grid.primary, axis, _fresh(grid, by_arm)
            )
        ],
        list(gain_findings(grid, set_name, by_arm)),
        list(diagnostic_findings(grid, by_arm)),
        list(_trials(grid, [run for run in runs if run.trial is not None])),
        [_costs(arm, list(found.values())) for arm, found in by_arm.items()],
        _protocol(first, set_name) if first else "",
        sorted({str(run.status.get("git_commit") or "unknown") for run in runs}),
    )


def _fresh(grid: Grid, by_arm: ByArm) -> ByArm:
    return {
        arm: {seed: run for seed, run in runs.items() if seed not in grid.known_seeds}
        for arm, runs in by_arm.items()
    }


def _before(runs: Sequence[StudyRun], set_name: str, figure: str) -> Iterator[float]:
    for run in runs:
        if result := run.results.get(set_name, {}).get(0):
            yield fmean(result.item_values(figure))


def _arm(grid: Grid, set_name: str, arm: str, runs: Sequence[StudyRun]) -> ArmFinding:
    figures = {}
    for figure in (grid.primary, grid.second, TRAINING_REWARD):
        values = [v for run in runs if (v := at_end(run, set_name, figure)) is not None]
        if values:
            figures[figure] = mean_of(values)
    return ArmFinding(arm, figures, {name: _diagnostic(runs, name) for name in grid.diagnostics})


def _diagnostic(runs: Sequence[StudyRun], name: str) -> tuple[float, float] | None:
    found = [v for run in runs if (v := run.measured(name))]
    if not found:
        return None
    return median(value for values in found for value in values), fmean(v[-1] for v in found)


def _trials(grid: Grid, runs: Sequence[StudyRun]) -> Iterator[TrialFinding]:
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run for run in runs if run.arm == arm]
        taken = taken_trial(grid, arm, own)
        for number, reward in trial_rewards(own).items():
            yield TrialFinding(arm, number, reward, number == taken)


def _costs(arm: str, runs: Sequence[StudyRun]) -> CostFinding:
    tokens, seconds = (
        fmean((run.costs(axis) or [0.0])[-1] for run in runs)
        for axis in ("generated_tokens", "device_seconds")
    )
    times = [run.seconds for run in runs if run.seconds is not None]
    minutes = median(times) / 60 if times else None
    num_steps = runs[0].config["run"]["num_steps"]
    return CostFinding(arm, len(runs), num_steps, tokens, seconds, minutes)


def _protocol(run: StoredRun, set_name: str) -> str:
    section = run.config["evaluation"]
    most = section["max_tokens"] or run.config["rollout"]["max_tokens"]
    items = {len(r.ids) for r in run.results.get(set_name, {}).values()}
    return (
        f"{' or '.join(map(str, sorted(items)))} held-out items of {set_name}, at most {most} "
        f"tokens; pass@1 greedy, avg@n {section['num_samples']} samples at temperature "
        f"{section['temperature']:g}, top-p {section['top_p']:g}"
    )
