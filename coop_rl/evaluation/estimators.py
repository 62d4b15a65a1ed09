r"""Accuracy estimates with 95 % intervals.

    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k)      arXiv 2107.03374, equation 1
    avg@n  = mean over problems of c / n
    maj@n  = share of problems whose commonest answer is right    arXiv 2203.11171

with n samples of a problem, c of them right. A problem is the unit that varies: intervals are over
problems, never over single samples, because samples of one problem are not independent.

All intervals over problems are score intervals. Resampling problems (the percentile bootstrap)
covers the truth too rarely where it matters: 30 problems, or accuracies near 0 and 1
(`bench/coverage.py`).

| figure | interval | source |
|---|---|---|
| a share of problems | Wilson, nearest 0 and 1 Poisson | Brown, Cai, DasGupta 2001, section 4.1.1 |
| a mean of c/n | Wilson, for n / design effect problems | Dean, Pagano 2015 |
| a paired difference | from both means' intervals and correlation | Newcombe 1998; Zou 2008 |
| a mean over seeds | Student's t | Abramowitz, Stegun 1964, 26.7.3 and 26.7.4 |
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
POISSON_LOW = (0.05129329, 0.35536151, 0.81769145)
"""Lower 95 % limit of a Poisson mean after 1, 2, 3 events."""
PRIOR_EFFECT = 0.15
"""Weight, in units of one problem's variance, of design effect 1, which no mean exceeds: a few
problems that happen to agree must not make an interval narrow. Tuned by `bench/coverage.py`."""
PRIOR_PAIRS = 0.3
"""Variance of pairs without correlation that are added before a correlation is computed."""
Values = Sequence[float] | NDArray[np.floating[Any]]
Array = NDArray[np.float64]


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


def is_majority_correct(answers: Sequence[str], is_correct: Sequence[bool]) -> bool:
    """Return whether the commonest answer to one problem is right.

    Args:
        answers: Answers in a normal form; empty ones do not vote. Of equally common ones the first
            seen wins.
        is_correct: The verdict on each; an answer's is that on its first response.
    """
    votes = Counter(answer for answer in answers if answer)
    if not votes:
        return False
    ((winner, _),) = votes.most_common(1)  # equal counts keep the order they were seen in
    return is_correct[list(answers).index(winner)]


def wilson_interval(num_successes: int, num_trials: int) -> Estimate:
    """Return a proportion with its Wilson score interval, sound at 0 and 1 too.

    With up to 3 successes (or failures) the end nearest 0 (or 1) is the Poisson limit instead,
    where Wilson's covers 86 % at worst.

    Raises:
        ValueError: There is no trial.
    """
    if num_trials < 1:
        raise ValueError(f"need at least 1 trial, got {num_trials}")
    share = num_successes / num_trials
    low, high = (float(end) for end in _wilson(np.float64(share), np.float64(num_trials)))
    num_failures = num_trials - num_successes
    if 1 <= num_successes <= len(POISSON_LOW):
        low = min(low, POISSON_LOW[num_successes - 1] / num_trials)
    if 1 <= num_failures <= len(POISSON_LOW):
        high = max(high, 1 - POISSON_LOW[num_failures - 1] / num_trials)
    return _estimate(share, max(0.0, low), min(1.0, high))


def mean_interval(values: Values) -> Estimate:
    """Return the mean over problems with its interval.

    Args:
        values: One value in [0, 1] per problem.

    Raises:
        ValueError: There is no problem.
    """
    value_P = np.asarray(values, dtype=np.float64)
    if value_P.size < 1:
        raise ValueError("need at least 1 problem, got 0")
    low, high = mean_bounds(value_P)
    return _estimate(float(value_P.mean()), max(0.0, float(low)), min(1.0, float(high)))


def paired_difference(before: Values, after: Values) -> Estimate:
    """Return mean(after - before) on the same problems with its interval.

    Args:
        before: One value in [0, 1] per problem.
        after: The same problems' values, in the same order.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    if len(before) != len(after):
        raise ValueError(f"need the same problems twice, got {len(before)} and {len(after)}")
    if len(before) < 1:
        raise ValueError("need at least 1 problem, got 0")
    before_P, after_P = (np.asarray(v, dtype=np.float64) for v in (before, after))
    low, high = difference_bounds(before_P, after_P)
    return _estimate(float(after_P.mean() - before_P.mean()), float(low), float(high))


def seed_interval(differences: Sequence[float]) -> Estimate:
    """Return the mean over seeds, or over other whole runs, with its t interval.

    Args:
        differences: One value a seed, such as one method's accuracy less another's.

    Raises:
        ValueError: There are fewer than 2.
    """
    if len(differences) < 2:
        raise ValueError(f"need at least 2 seeds, got {len(differences)}")
    mean = fmean(differences)
    error = stdev(differences) / math.sqrt(len(differences))
    half = t_quantile(len(differences) - 1) * error
    return _estimate(mean, mean - half, mean + half)


@cache
def t_quantile(degrees: int) -> float:
    """Return the two-sided 95 % quantile of Student's t, by bisection of its distribution."""
    low, high = Z_95, 13.0  # 12.706 with one degree of freedom
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def t_within(t: float, degrees: int) -> float:
    """Return the probability that |T| < t."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(angle)
    is_odd = degrees % 2
    term = cosine if is_odd else 1.0
    total = 0.0
    for power in range(2 + is_odd, degrees + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if is_odd else series


def mean_bounds(value_P: Array) -> tuple[Array, Array]:
    """Return both ends of the interval of the mean over the last axis, values in [0, 1]."""
    return _wilson(value_P.mean(axis=-1), value_P.shape[-1] / _design_effect(value_P))


def difference_bounds(before_P: Array, after_P: Array) -> tuple[Array, Array]:
    """Return both ends of the interval of mean(after - before) over the last axis."""
    (mean_a, mean_b) = (v.mean(axis=-1) for v in (before_P, after_P))
    (low_a, high_a), (low_b, high_b) = mean_bounds(before_P), mean_bounds(after_P)
    correlation = _correlation(before_P, after_P)

    def reach(first: Array, second: Array) -> Array:
        squared = first**2 - 2 * correlation * first * second + second**2
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))

    difference = mean_b - mean_a
    low = difference - reach(mean_b - low_b, high_a - mean_a)
    high = difference + reach(high_b - mean_b, mean_a - low_a)
    return low, high


def _wilson(share: Any, num_trials: Any) -> tuple[Array, Array]:
    weight = Z_95**2 / num_trials
    centre = (share + weight / 2) / (1 + weight)
    half = (
        Z_95 / (1 + weight) * np.sqrt(share * (1 - share) / num_trials + weight / (4 * num_trials))
    )
    return centre - half, centre + half


def _design_effect(value_P: Array) -> Array:
    """Return the variance over problems by that of right-or-wrong with the same mean, at most 1."""
    num_problems, mean = value_P.shape[-1], value_P.mean(axis=-1)
    squares = ((value_P - mean[..., None]) ** 2).sum(axis=-1)
    squares *= num_problems / max(num_problems - 1, 1)
    most = num_problems * mean * (1 - mean)
    return np.asarray(np.minimum((squares + PRIOR_EFFECT) / (most + PRIOR_EFFECT), 1.0))


def _correlation(before_P: Array, after_P: Array) -> Array:
    centred = [v - v.mean(axis=-1)[..., None] for v in (before_P, after_P)]
    spread_a, spread_b = (
        (c**2).sum(axis=-1) + PRIOR_PAIRS * _design_effect(v) ** 2
        for c, v in zip(centred, (before_P, after_P), strict=True)
    )
    product = (centred[0] * centred[1]).sum(axis=-1)
    return np.asarray(product / np.sqrt(spread_a * spread_b))


def _estimate(value: float, low: float, high: float) -> Estimate:
    # Rounding must not put an end of the interval on the wrong side of the value.
    return Estimate(value, min(low, value), max(high, value))
