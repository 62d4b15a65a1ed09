r"""Accuracy estimates with 95 % intervals.

    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k)      arXiv 2107.03374, equation 1
    avg@k  = mean over problems of c / n, with k = n samples

with n samples of a problem, c of them right. A problem is the unit that varies: intervals resample
problems, never single samples, because samples of one problem are not independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased pass@k of one problem.

    Raises:
        ValueError: k is not in [1, num_samples], or num_correct not in [0, num_samples].
    """
    if not (1 <= k <= num_samples and 0 <= num_correct <= num_samples):
        raise ValueError(
            f"need 1 <= k <= n and 0 <= c <= n, got n={num_samples}, c={num_correct}, k={k}"
        )
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def wilson_interval(num_successes: int, num_trials: int) -> Estimate:
    """Return a proportion with its Wilson score interval, sound at 0 and 1 too.

    Raises:
        ValueError: There is no trial.
    """
    if num_trials < 1:
        raise ValueError(f"need at least 1 trial, got {num_trials}")
    share = num_successes / num_trials
    weight = Z_95**2 / num_trials
    centre = (share + weight / 2) / (1 + weight)
    half = (
        Z_95
        / (1 + weight)
        * math.sqrt(share * (1 - share) / num_trials + weight / (4 * num_trials))
    )
    # Rounding must not put the interval's end on the wrong side of the value.
    return Estimate(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def bootstrap_mean(values: Sequence[float] | NDArray[np.floating[Any]], seed: int = 0) -> Estimate:
    """Return the mean over problems with its percentile bootstrap interval.

    Raises:
        ValueError: There is no problem.
    """
    value_P = np.asarray(values, dtype=np.float64)
    if value_P.size < 1:
        raise ValueError("need at least 1 problem, got 0")
    rng = np.random.default_rng(seed)
    pick_RP = rng.integers(value_P.size, size=(NUM_RESAMPLES, value_P.size))
    low, high = np.quantile(value_P[pick_RP].mean(axis=1), (0.025, 0.975))
    mean = float(value_P.mean())
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Estimate:
    """Return mean(after - before) on the same problems, resampling problems.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    if len(before) != len(after):
        raise ValueError(f"need the same problems twice, got {len(before)} and {len(after)}")
    return bootstrap_mean(np.asarray(after, dtype=np.float64) - np.asarray(before), seed)
