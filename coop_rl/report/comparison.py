"""Arms compared at equal steps, tokens and device-seconds, from what their runs have stored.

    per seed: the latest pair of evaluations whose costs are equal --> other - reference
    over seeds: mean and t interval; with one seed: over the items of the evaluation

Two evaluations are equal in cost when they lie within `TOLERANCE` of each other (steps: exactly),
so a run that was evaluated before and after alone can be compared at equal tokens only with runs
that spent as many. The reward of training needs no evaluation: it is the mean of the last steps up
to what the cheaper run has spent in all, to the nearest step, so that runs which spent nearly the
same are compared on the same steps' prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from coop_rl.evaluation.estimators import Estimate, seed_interval
from coop_rl.evaluation.result import EvaluationResult, compare
from coop_rl.metric_names import REWARD, VALIDATION_NLL
from coop_rl.report.arms import Arm
from coop_rl.report.stored_run import AXES, Axis, StoredRun, numbers

LAST_STEPS = 10
TOLERANCE = 0.05
"""Largest difference of two costs that count as equal, as a share of the larger."""
TRAINING = "training reward"
HELD_OUT_NLL = "held-out SFT loss"
Pair = tuple[StoredRun, StoredRun]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two arms at equal cost: the other's less the reference's."""

    figure: str
    axis: Axis
    reference: str
    other: str
    value: float | None
    """None: nothing was stored at equal cost; `over` says why."""
    reference_value: float | None = None
    other_value: float | None = None
    low: float | None = None
    high: float | None = None
    over: str = ""
    """What the interval is over: seeds, or items of one seed."""

    @property
    def is_lower_better(self) -> bool:
        """Whether less is better, as for a loss."""
        return self.figure == HELD_OUT_NLL


@dataclass(frozen=True, slots=True)
class Found:
    """A figure of one pair of runs at equal cost."""

    reference: float
    other: float
    over_items: Estimate | None = None
    num_items: int = 0


Measure = Callable[[Pair, Axis], Found | None]


def compare_arms(arms: Sequence[Arm]) -> list[Difference]:
    """Return every arm less the first, for every figure and axis."""
    reference, *others = arms
    figures = dict(_figures(arms))
    return [
        _difference(reference, other, name, axis, measure)
        for other in others
        for name, measure in figures.items()
        for axis in AXES
    ]


def pairs_of(reference: Arm, other: Arm) -> list[list[Pair]]:
    """Return the pairs of runs of each seed that both arms have; single runs pair whatever.

    Where some seeds have ended, those with a run still under way wait: a mean over seeds at
    different steps says nothing.
    """
    if len(reference.runs) == len(other.runs) == 1:
        return [[(reference.runs[0], other.runs[0])]]
    pairs = [
        [(first, second) for first in runs for second in other.by_seed[seed]]
        for seed, runs in reference.by_seed.items()
        if seed in other.by_seed
    ]
    ended = [own for own in pairs if not any(run.is_running for pair in own for run in pair)]
    return ended or pairs


def _figures(arms: Sequence[Arm]) -> Iterator[tuple[str, Measure]]:
    """Yield every figure that some run has, in the order of the terminal's rows."""
    runs = [run for arm in arms for run in arm.runs]
    for run in runs:
        for name, results in run.results.items():
            for figure in next(iter(results.values())).estimates:
                yield f"{name} {figure}", _accuracy(name, figure)
    if any(numbers(run.evaluations, VALIDATION_NLL) for run in runs):
        yield HELD_OUT_NLL, _held_out_nll
    if any(numbers(run.steps, REWARD) for run in runs):
        yield TRAINING, training_reward


def _difference(
    reference: Arm, other: Arm, figure: str, axis: Axis, measure: Measure
) -> Difference:
    seeds = [[measure(pair, axis) for pair in pairs] for pairs in pairs_of(reference, other)]
    found = [[one for one in pairs if one] for pairs in seeds]
    kept = [pairs for pairs in found if pairs]
    if not kept:
        why = "nothing stored at equal cost" if seeds else "no seed in common"
        return Difference(figure, axis, reference.name, other.name, None, over=why)
    differences = [fmean(one.other - one.reference for one in pairs) for pairs in kept]
    estimate, over = _interval(differences, kept)
    return Difference(
        figure,
        axis,
        reference.name,
        other.name,
        fmean(differences),
        fmean(one.reference for pairs in kept for one in pairs),
        fmean(one.other for pairs in kept for one in pairs),
        estimate.low if estimate else None,
        estimate.high if estimate else None,
        over,
    )


def _interval(
    differences: Sequence[float], found: Sequence[Sequence[Found]]
) -> tuple[Estimate | None, str]:
    if len(differences) > 1:
        return seed_interval(differences), f"{len(differences)} seeds"
    (first,) = found[0][:1]
    if len(found[0]) == 1 and first.over_items:
        return first.over_items, f"{first.num_items} items, 1 seed"
    return None, "1 seed"


def _accuracy(name: str, figure: str) -> Measure:
    def measure(pair: Pair, axis: Axis) -> Found | None:
        results = [run.results.get(name, {}) for run in pair]
        steps = _equal(pair, axis, [sorted(by_step) for by_step in results])
        if steps is None:
            return None
        first, second = results[0][steps[0]], results[1][steps[1]]
        both = compare(first, second)
        if both is None or figure not in both.differences:
            return None
        over_items = both.differences[figure]
        return Found(_value(first, figure), _value(second, figure), over_items, len(first.ids))

    return measure


def _value(result: EvaluationResult, figure: str) -> float:
    return result.estimates[figure].value


def _held_out_nll(pair: Pair, axis: Axis) -> Found | None:
    measured = [
        {row["step"]: row[VALIDATION_NLL] for row in run.evaluations if row.get(VALIDATION_NLL)}
        for run in pair
    ]
    steps = _equal(pair, axis, [sorted(by_step) for by_step in measured])
    return Found(measured[0][steps[0]], measured[1][steps[1]]) if steps else None


def training_reward(pair: Pair, axis: Axis) -> Found | None:
    """Return the mean reward of the last steps that fit into what the cheaper run spent in all."""
    costs = [run.costs(axis) for run in pair]
    if not all(costs):
        return None
    budget = min(c[-1] for c in costs)
    rewards = [
        numbers(run.steps[: _steps_within(spent, budget)], REWARD)
        for run, spent in zip(pair, costs, strict=True)
    ]
    if not all(rewards):
        return None
    reference, other = (fmean(values[-LAST_STEPS:]) for values in rewards)
    return Found(reference, other)


def _steps_within(costs: Sequence[float], budget: float) -> int:
    """Return how many steps a budget is for, to the nearest: costs differ by less than a step."""
    before = (0.0, *costs)
    return sum((a + b) / 2 <= budget for a, b in zip(before, costs, strict=False))


def _equal(pair: Pair, axis: Axis, steps: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """Return after how many steps of each run its latest evaluation at equal cost was made."""
    tolerance = 0.0 if axis == "steps" else TOLERANCE
    first, second = (
        [(cost, step) for step in own if step and (cost := run.cost_after(step, axis)) is not None]
        for run, own in zip(pair, steps, strict=True)
    )
    equal = [
        (min(a, b), step_a, step_b)
        for a, step_a in first
        for b, step_b in second
        if abs(a - b) <= tolerance * max(a, b)
    ]
    return max(equal)[1:] if equal else None
