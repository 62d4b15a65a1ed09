"""What two runs reached at equal cost, item by item.

    cost of a pair: what the cheaper run spent in all --> item values of both there

The cheaper run's is its last evaluation. The other one's lies between two of its evaluations: a
line between them, item by item, where neither was made before training, when accuracy rises
fastest; else the nearest evaluation within `TOLERANCE`; else there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_rl.report.comparison import TOLERANCE, training_reward
from coop_rl.report.stored_run import Axis
from coop_rl.study.runs import TRAINING_REWARD, StudyRun

STUDY_AXES: tuple[Axis, ...] = ("steps", "generated_tokens", "device_seconds")
EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class PairAtCost:
    """A figure of an arm and its reference, of one seed, at equal cost."""

    seed: int
    arm_P: NDArray[np.float64]
    """The arm's values by item; one value where the figure has no items."""
    reference_P: NDArray[np.float64]

    @property
    def difference(self) -> float:
        """The arm's mean less the reference's."""
        return float((self.arm_P - self.reference_P).mean())


def pair_at_cost(
    arm: StudyRun, reference: StudyRun, set_name: str, figure: str, axis: Axis
) -> PairAtCost | None:
    """Return a figure of two runs of one seed at equal cost; None: nothing stored there."""
    if figure == TRAINING_REWARD:
        found = training_reward((reference, arm), axis)
        if found is None:
            return None
        return PairAtCost(arm.seed, np.array([found.other]), np.array([found.reference]))
    budget = min((run.costs(axis) or [0.0])[-1] for run in (arm, reference))
    ids = [{result.ids for result in run.results.get(set_name, {}).values()} for run in
           (arm, reference)]  # fmt: skip
    if budget <= 0 or len(ids[0] | ids[1]) != 1:
        return None
    both = [values_at(run, set_name, figure, axis, budget) for run in (arm, reference)]
    if both[0] is None or both[1] is None:
        return None
    return PairAtCost(arm.seed, both[0], both[1])


def values_at(
    run: StudyRun, set_name: str, figure: str, axis: Axis, budget: float
) -> NDArray[np.float64] | None:
    """Return a run's item values when it had spent `budget`."""
    by_cost = {
        cost: np.array(result.item_values(figure))
        for step, result in run.results.get(set_name, {}).items()
        if step and (cost := run.cost_after(step, axis))
    }
    if not by_cost:
        return None
    nearest = min(by_cost, key=lambda cost: abs(cost - budget))
    distance = abs(nearest - budget) / budget
    below: Sequence[float] = [cost for cost in by_cost if cost <= budget]
    above: Sequence[float] = [cost for cost in by_cost if cost > budget]
    if distance > EXACT and below and above and axis != "steps":
        low, high = max(below), min(above)
        share = (budget - low) / (high - low)
        between: NDArray[np.float64] = (1 - share) * by_cost[low] + share * by_cost[high]
        return between
    return by_cost[nearest] if distance <= (EXACT if axis == "steps" else TOLERANCE) else None
