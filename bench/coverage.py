"""How often 95 % intervals of `coop_rl.evaluation.estimators` hold the truth; prints Markdown.

python bench/coverage.py [--draws 4000]

Problems have right-probabilities drawn from a beta distribution of mean p: `spread` is a + b, small
means that most problems are nearly always or nearly never solved. Greedy shares need no draws.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from coop_rl.evaluation.estimators import difference_bounds, mean_bounds, wilson_interval

Array = NDArray[np.float64]
NUM_PROBLEMS = (30, 100, 500, 1319)
NUM_SAMPLES = (1, 4, 16)
MEANS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
SPREADS = (0.3, 1.0, 2.0)
SHARED = (0.0, 0.5, 0.9)
"""Share of problems whose difficulty is the same for both models of a pair."""
GAINS = (0.0, 0.15)
"""What the second model solves of what the first does not."""
VALUES_AT_ONCE = 2_000_000
NUM_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage in one scene."""

    scene: str
    mean_p: float
    share: float


def wilson_coverage(num_problems: int, p: float) -> float:
    """Return the exact coverage of the interval of a greedy share, over the binomial."""
    log_choose, low, high = _binomial(num_problems)
    success = np.arange(num_problems + 1)
    chance = np.exp(log_choose + success * np.log(p) + (num_problems - success) * np.log1p(-p))
    return float(chance[(low <= p) & (p <= high)].sum())


@lru_cache(maxsize=8)
def _binomial(n: int) -> tuple[Array, Array, Array]:
    ends = [wilson_interval(x, n) for x in range(n + 1)]
    log_choose = [lgamma(n + 1) - lgamma(x + 1) - lgamma(n - x + 1) for x in range(n + 1)]
    return np.array(log_choose), np.array([e.low for e in ends]), np.array([e.high for e in ends])


def mean_coverage(
    num_problems: int, num_samples: int, draws: int, rng: np.random.Generator
) -> Iterator[Coverage]:
    """Yield the coverage of avg@n's interval over difficulties and means."""
    for spread, p in product(SPREADS, MEANS):
        held = [
            _holds(p, *mean_bounds(_draw(rng, rows, num_problems, num_samples, p, spread)))
            for rows in _chunks(draws, num_problems)
        ]
        yield Coverage(f"spread {spread}", p, float(np.concatenate(held).mean()))


def difference_coverage(
    num_problems: int, num_samples: int, draws: int, rng: np.random.Generator
) -> Iterator[Coverage]:
    """Yield the coverage of the paired difference's interval."""
    for spread, shared, gain, p in product(SPREADS, SHARED, GAINS, MEANS):
        held = []
        for rows in _chunks(draws, num_problems):
            before, after = _pair(rng, (rows, num_problems), num_samples, p, spread, shared, gain)
            held.append(_holds(gain * (1 - p), *difference_bounds(before, after)))
        scene = f"spread {spread}, shared {shared}, gain {gain}"
        yield Coverage(scene, p, float(np.concatenate(held).mean()))


def bootstrap_coverage(
    num_problems: int, num_samples: int, draws: int, rng: np.random.Generator
) -> Iterator[Coverage]:
    """Yield the coverage of the percentile bootstrap over problems, for comparison."""
    for spread, p in product(SPREADS, MEANS):
        held = []
        for value_P in _draw(rng, draws, num_problems, num_samples, p, spread):
            pick = rng.integers(num_problems, size=(NUM_RESAMPLES, num_problems))
            low, high = np.quantile(value_P[pick].mean(axis=1), (0.025, 0.975))
            held.append(low <= p <= high)
        yield Coverage(f"spread {spread}", p, float(np.mean(held)))


def _draw(
    rng: np.random.Generator, rows: int, num_problems: int, n: int, p: float, spread: float
) -> Array:
    chance = rng.beta(p * spread, (1 - p) * spread, (rows, num_problems))
    return np.asarray(rng.binomial(n, chance) / n)


def _pair(
    rng: np.random.Generator,
    size: tuple[int, int],
    n: int,
    p: float,
    spread: float,
    shared: float,
    gain: float,
) -> tuple[Array, Array]:
    chance = rng.beta(p * spread, (1 - p) * spread, size)
    other = p + gain * (1 - p)
    fresh = rng.beta(other * spread, (1 - other) * spread, size)
    is_shared = rng.random(size) < shared
    better = np.where(is_shared, chance + gain * (1 - chance), fresh)
    return rng.binomial(n, chance) / n, rng.binomial(n, np.minimum(better, 1.0)) / n


def _holds(truth: float, low: Array, high: Array) -> NDArray[np.bool_]:
    return (low <= truth + 1e-12) & (truth - 1e-12 <= high)


def _chunks(draws: int, num_problems: int) -> Iterator[int]:
    size = max(1, VALUES_AT_ONCE // num_problems)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def mean_over_p(coverages: list[Coverage]) -> float:
    """Return the mean over p, evenly between the grid's ends, and over the scenes."""
    scenes: dict[str, list[Coverage]] = {}
    for coverage in coverages:
        scenes.setdefault(coverage.scene, []).append(coverage)
    means = []
    for found in scenes.values():
        points, shares = [c.mean_p for c in found], [c.share for c in found]
        means.append(np.trapezoid(shares, points) / (points[-1] - points[0]))
    return float(np.mean(means))


def summary(coverages: list[Coverage]) -> str:
    """Return the mean over p and the worst case, in percent."""
    worst = min(coverages, key=lambda c: c.share)
    return (
        f"{mean_over_p(coverages):.1%} | {worst.share:.1%} at p = {worst.mean_p:g}, {worst.scene}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    lines = ["| figure | n | samples | mean over p | worst |", "|---|---|---|---|---|"]
    grid = [i / 50 for i in range(1, 50)]
    for n in NUM_PROBLEMS:
        for name, points in (("0.02, 0.04 … 0.98", grid), ("0.001 … 0.999", list(_fine()))):
            found = [Coverage("exact", p, wilson_coverage(n, p)) for p in points]
            lines.append(f"| pass@1, p = {name} | {n} | 1 | {summary(found)} |")
    for n, k in product(NUM_PROBLEMS, NUM_SAMPLES):
        lines.append(f"| mean | {n} | {k} | {summary(list(mean_coverage(n, k, draws, rng)))} |")
    for n, k in product(NUM_PROBLEMS[:3], NUM_SAMPLES):
        found = list(difference_coverage(n, k, max(1, draws // 2), rng))
        lines.append(f"| paired difference | {n} | {k} | {summary(found)} |")
    for n in NUM_PROBLEMS[:2]:
        found = list(bootstrap_coverage(n, 4, max(1, draws // 10), rng))
        lines.append(f"| mean, percentile bootstrap | {n} | 4 | {summary(found)} |")
    sys.stdout.write("\n".join(lines) + "\n")


def _fine() -> Iterator[float]:
    yield from (i / 1000 for i in range(1, 1000))


if __name__ == "__main__":
    main()
