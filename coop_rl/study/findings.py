"""What a study found: figures of every arm, the declared contrasts, and what G foretold.

    StudyRun by arm and seed --+-- arms       over the seeds that every arm has finished
                               +-- contrasts  over the seeds both arms have, at equal cost
                               +-- gains      the logged G against a separate RL run

Only what the grid declares is computed. p-values are adjusted over all of its contrasts, those
without runs yet included, for each figure and kind of equal cost by itself. No checkpoint is
chosen: figures are those at the end, or at equal cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

import numpy as np

from coop_rl.evaluation.estimators import Estimate, seed_interval
from coop_rl.evaluation.seeds import (
    bootstrap_interval,
    correlation,
    difference_p,
    equivalence_p,
    holm,
)
from coop_rl.report.stored_run import Axis, StoredRun, numbers
from coop_rl.study.equal_cost import STUDY_AXES, TRAINING_REWARD, PairAtCost, pair_at_cost
from coop_rl.study.grid import Contrast, Grid
from coop_rl.study.runs import StudyRun, best_trial, last_reward, trial_rewards

POOLED_GAIN = "gain/pooled"
SIGNIFICANT = 0.05
ByArm = Mapping[str, Mapping[int, StudyRun]]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds; spread and interval are None with one seed."""

    num_seeds: int
    value: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


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
    generated_tokens: float
    """Mean of a run."""
    device_seconds: float
    """Mean of a run."""
    minutes: float | None
    """Median of a run that was not interrupted, start-up and evaluations included."""


@dataclass(frozen=True, slots=True)
class ContrastFinding:
    """One figure of a declared contrast at one kind of equal cost."""

    figure: str
    axis: Axis
    arm: str
    reference: str
    num_seeds: int
    """Pairs of runs; 0: nothing to compare yet, and no figures."""
    arm_value: float | None = None
    reference_value: float | None = None
    difference: Mean | None = None
    bootstrap: tuple[float, float] | None = None
    """95 % interval over seeds and items."""
    p: float | None = None
    p_holm: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    equivalence_p_holm: float | None = None

    @property
    def reads(self) -> str:
        """What may be said of it at 5 %, adjusted for the number of contrasts."""
        if self.difference is None or self.p_holm is None:
            return "too few seeds"
        said = []
        if self.p_holm < SIGNIFICANT:
            said.append("higher" if self.difference.value > 0 else "lower")
        if self.equivalence_p_holm is not None and self.equivalence_p_holm < SIGNIFICANT:
            said.append(f"within ± {self.margin:g}")
        return ", ".join(said) or "no difference shown"


@dataclass(frozen=True, slots=True)
class DiagnosticFinding:
    """How far a declared contrast's diagnostics are apart, which is described and not tested."""

    arm: str
    reference: str
    differences: Mapping[str, Mean]
    """Of the last values of runs of the same seed, by metric; without those one arm lacks."""


@dataclass(frozen=True, slots=True)
class GainFinding:
    """The logged G of an arm against the difference from a separate RL run of the same seed."""

    arm: str
    reference: str
    num_seeds: int
    gain: Mean
    """gain/pooled at the end."""
    reward: Mean
    """The arm's training reward over the last steps, less the RL run's."""
    primary: Mean | None
    """The same of the primary figure."""
    excess: Mean
    """G less the difference in training reward: how far it is off."""
    num_same_sign: int
    """Seeds in which G and the difference in training reward have one sign."""
    correlation: Estimate | None
    """Of G and the difference in training reward, over seeds."""


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
            for finding in _contrasts(grid, set_name, figure, axis, by_arm)
        ],
        [
            finding
            for axis in STUDY_AXES
            if grid.known_seeds
            for finding in _contrasts(grid, set_name, grid.primary, axis, _fresh(grid, by_arm))
        ],
        list(_gains(grid, set_name, by_arm)),
        list(_diagnostic_contrasts(grid, by_arm)),
        list(_trials([run for run in runs if run.trial is not None])),
        [_costs(arm, list(found.values())) for arm, found in by_arm.items()],
        _protocol(first, set_name) if first else "",
        sorted({str(run.status.get("git_commit") or "unknown") for run in runs}),
    )


def _fresh(grid: Grid, by_arm: ByArm) -> ByArm:
    return {
        arm: {seed: run for seed, run in runs.items() if seed not in grid.known_seeds}
        for arm, runs in by_arm.items()
    }


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean over seeds, with its t interval where there are several."""
    if len(values) < 2:
        return Mean(len(values), fmean(values))
    found = seed_interval(values)
    return Mean(len(values), found.value, stdev(values), found.low, found.high)


def at_end(run: StudyRun, set_name: str, figure: str) -> float | None:
    """Return a figure after the last step; None where it was not measured there."""
    if figure == TRAINING_REWARD:
        return last_reward(run)
    results = run.results.get(set_name, {})
    last = results.get(max(results)) if results and max(results) else None
    return fmean(last.item_values(figure)) if last else None


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
    found = [v for run in runs if (v := numbers((*run.steps, *run.evaluations), name))]
    if not found:
        return None
    return median(value for values in found for value in values), fmean(v[-1] for v in found)


def _diagnostic_contrasts(grid: Grid, by_arm: ByArm) -> Iterator[DiagnosticFinding]:
    for contrast in grid.contrasts:
        arm, reference = by_arm.get(contrast.arm, {}), by_arm.get(contrast.reference, {})
        pairs = [(run, reference[seed]) for seed, run in sorted(arm.items()) if seed in reference]
        found = {}
        for name in grid.diagnostics:
            ends = [(_last(run, name), _last(other, name)) for run, other in pairs]
            differences = [a - b for a, b in ends if a is not None and b is not None]
            if differences:
                found[name] = mean_of(differences)
        if found:
            yield DiagnosticFinding(contrast.arm, contrast.reference, found)


def _last(run: StudyRun, name: str) -> float | None:
    found = numbers((*run.steps, *run.evaluations), name)
    return found[-1] if found else None


def _contrasts(
    grid: Grid, set_name: str, figure: str, axis: Axis, by_arm: ByArm
) -> list[ContrastFinding]:
    pairs = [_pairs(c, set_name, figure, axis, by_arm) for c in grid.contrasts]
    differences = [[pair.difference for pair in own] for own in pairs]
    p = [difference_p(own) if len(own) > 1 else None for own in differences]
    is_primary = figure == grid.primary
    margins = [c.margin if is_primary else None for c in grid.contrasts]
    equal = [
        equivalence_p(own, margin) if margin and len(own) > 1 else None
        for own, margin in zip(differences, margins, strict=True)
    ]
    tested = [1.0 if value is None else value for value in p]
    asked = [i for i, margin in enumerate(margins) if margin]
    equal_holm = dict(
        zip(asked, holm([1.0 if (e := equal[i]) is None else e for i in asked]), strict=True)
    )
    return [
        ContrastFinding(
            figure, axis, contrast.arm, contrast.reference, len(own),
            fmean(float(pair.arm_P.mean()) for pair in own) if own else None,
            fmean(float(pair.reference_P.mean()) for pair in own) if own else None,
            mean_of(differences[i]) if own else None,
            _bootstrap(own),
            p[i],
            None if p[i] is None else adjusted,
            margins[i],
            equal[i],
            None if equal[i] is None else equal_holm[i],
        )
        for i, (contrast, own, adjusted) in enumerate(
            zip(grid.contrasts, pairs, holm(tested), strict=True)
        )
    ]  # fmt: skip


def _pairs(
    contrast: Contrast, set_name: str, figure: str, axis: Axis, by_arm: ByArm
) -> list[PairAtCost]:
    arm, reference = by_arm.get(contrast.arm, {}), by_arm.get(contrast.reference, {})
    found = [
        pair_at_cost(run, reference[seed], set_name, figure, axis)
        for seed, run in sorted(arm.items())
        if seed in reference
    ]
    return [pair for pair in found if pair]


def _bootstrap(pairs: Sequence[PairAtCost]) -> tuple[float, float] | None:
    if len(pairs) < 2 or pairs[0].arm_P.size < 2:
        return None
    return bootstrap_interval(np.stack([pair.arm_P - pair.reference_P for pair in pairs]))


def _gains(grid: Grid, set_name: str, by_arm: ByArm) -> Iterator[GainFinding]:
    """Yield every contrast with an RL run whose arm logs a gain, then all of them together."""
    points: list[tuple[float, float, float | None]] = []
    for contrast in grid.contrasts:
        arm, rl = by_arm.get(contrast.arm, {}), by_arm.get(contrast.reference, {})
        own = [
            point
            for seed, run in sorted(arm.items())
            if seed in rl and (point := _foretold(run, rl[seed], set_name, grid.primary))
        ]
        if own:
            points += own
            yield _gain(contrast.arm, contrast.reference, own)
    if len(points) > 1:
        yield _gain("all", "", points)


def _foretold(
    run: StudyRun, rl: StudyRun, set_name: str, primary: str
) -> tuple[float, float, float | None] | None:
    """Return G, and the differences in training reward and in the primary figure."""
    gains = numbers(run.steps, POOLED_GAIN)
    if rl.method != "rl" or not gains:
        return None
    ends = [at_end(one, set_name, primary) for one in (run, rl)]
    primary_difference = None if ends[0] is None or ends[1] is None else ends[0] - ends[1]
    rewards = [last_reward(one) for one in (run, rl)]
    if rewards[0] is None or rewards[1] is None:
        return None
    return gains[-1], rewards[0] - rewards[1], primary_difference


def _gain(
    arm: str, reference: str, points: Sequence[tuple[float, float, float | None]]
) -> GainFinding:
    gains, rewards = [p[0] for p in points], [p[1] for p in points]
    primary = [p[2] for p in points if p[2] is not None]
    return GainFinding(
        arm,
        reference,
        len(points),
        mean_of(gains),
        mean_of(rewards),
        mean_of(primary) if primary else None,
        mean_of([gain - reward for gain, reward in zip(gains, rewards, strict=True)]),
        sum((gain > 0) == (reward > 0) for gain, reward in zip(gains, rewards, strict=True)),
        correlation(gains, rewards),
    )


def _trials(runs: Sequence[StudyRun]) -> Iterator[TrialFinding]:
    for arm in dict.fromkeys(run.arm for run in runs):
        rewards = trial_rewards([run for run in runs if run.arm == arm])
        best = best_trial(rewards)
        for number, reward in rewards.items():
            yield TrialFinding(arm, number, reward, number == best)


def _costs(arm: str, runs: Sequence[StudyRun]) -> CostFinding:
    tokens, seconds = (
        fmean((run.costs(axis) or [0.0])[-1] for run in runs)
        for axis in ("generated_tokens", "device_seconds")
    )
    times = [run.seconds for run in runs if run.seconds is not None]
    return CostFinding(arm, len(runs), tokens, seconds, median(times) / 60 if times else None)


def _protocol(run: StoredRun, set_name: str) -> str:
    section = run.config["evaluation"]
    most = section["max_tokens"] or run.config["rollout"]["max_tokens"]
    items = {len(r.ids) for r in run.results.get(set_name, {}).values()}
    return (
        f"{' or '.join(map(str, sorted(items)))} held-out items of {set_name}, at most {most} "
        f"tokens; pass@1 greedy, avg@n {section['num_samples']} samples at temperature "
        f"{section['temperature']:g}, top-p {section['top_p']:g}"
    )
