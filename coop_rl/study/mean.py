"""A mean over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from coop_rl.evaluation.estimators import seed_interval


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds; spread and interval are None with one seed."""

    num_seeds: int
    value: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean over seeds, with its t interval where there are several."""
    if len(values) < 2:
        return Mean(len(values), fmean(values))
    found = seed_interval(values)
    return Mean(len(values), found.value, stdev(values), found.low, found.high)
