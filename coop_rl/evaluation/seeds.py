"""What paired seeds say: tests of a mean difference, equivalence, and how many tests there were.

| figure | how | source |
|---|---|---|
| p of a difference | two-sided one-sample t test over seeds | Student 1908 |
| p of equivalence | two one-sided t tests (TOST) | Schuirmann 1987 |
| adjusted p | Holm's step-down | Holm 1979 |
| interval over seeds and items | percentile bootstrap, both drawn anew | Owen, Eckles 2012 |
| interval of a correlation | Fisher's z | Fisher 1921 |

The items of an evaluation are the same for all seeds, so the two are crossed: a draw takes seeds
and, apart from them, items. With few seeds a bootstrap interval is narrower than it should be; the
t interval (`estimators.seed_interval`) is the one to rely on.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_rl.evaluation.estimators import Z_95, Estimate, t_within

NUM_DRAWS = 5_000
DRAWS_AT_ONCE = 500
BOOTSTRAP_SEED = 20_261_128
"""The same draws every time, so that a table comes out the same."""


def difference_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean difference of zero; needs at least 2 seeds."""
    return 1.0 - _within(fmean(differences), differences)


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """Return the p of a mean difference at or beyond plus or minus `margin`; at least 2 seeds.

    Below 0.05 the difference lies within the margin, at 5 % for each side.
    """
    mean = fmean(differences)
    inside = margin - abs(mean)  # to the nearer bound, whose test is the weaker one
    tail = (1.0 - _within(inside, differences)) / 2
    return tail if inside > 0 else 1.0 - tail


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def bootstrap_interval(difference_SP: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over S seeds and P items, both drawn anew."""
    num_seeds, num_items = difference_SP.shape
    means: list[NDArray[Any]] = [
        ((seed_BS @ difference_SP) * item_BP).sum(axis=1) / (num_seeds * num_items)
        for seed_BS, item_BP in _draws(num_seeds, num_items)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


@lru_cache(maxsize=2)  # a study asks for the same ones again and again, and they take longest
def _draws(num_seeds: int, num_items: int) -> list[tuple[NDArray[np.int16], NDArray[np.int16]]]:
    """Return how often each seed and, apart from them, each item was drawn, in batches."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    draws = []
    for _ in range(NUM_DRAWS // DRAWS_AT_ONCE):
        seed_BS, item_BP = (
            generator.multinomial(count, np.full(count, 1 / count), DRAWS_AT_ONCE).astype(np.int16)
            for count in (num_seeds, num_items)
        )
        draws.append((seed_BS, item_BP))
    return draws


def correlation(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Return Pearson's r with its 95 % interval; None with fewer than 4 pairs, or a constant."""
    if len(first) < 4 or min(stdev(first), stdev(second)) == 0.0:
        return None
    r = float(np.corrcoef(first, second)[0, 1])
    if abs(r) >= 1.0:
        return Estimate(r, r, r)
    half = Z_95 / math.sqrt(len(first) - 3)
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half))


def _within(distance: float, differences: Sequence[float]) -> float:
    """Return the probability that |T| is below `distance` in standard errors of the mean."""
    error = stdev(differences) / math.sqrt(len(differences))
    if error == 0.0:
        return 1.0 if distance else 0.0
    return t_within(abs(distance) / error, len(differences) - 1)
