"""Tests over seeds, against values that were published or follow from the tables of t."""

import math

import numpy as np
import pytest

from coop_rl.evaluation.seeds import (
    bootstrap_interval,
    correlation,
    difference_p,
    equivalence_p,
    holm,
)


def at(t: float, num_seeds: int) -> list[float]:
    """Differences whose mean lies t standard errors from zero, of standard deviation 1."""
    half = num_seeds // 2
    values = np.array([-1.0] * half + [1.0] * half + [0.0] * (num_seeds % 2))
    values /= values.std(ddof=1)
    return list(values + t / math.sqrt(num_seeds))


@pytest.mark.parametrize(
    ("t", "num_seeds", "p"),
    [(2.776, 5, 0.05), (4.604, 5, 0.01), (2.262, 10, 0.05), (12.706, 2, 0.05), (0.0, 4, 1.0)],
)
def test_p_of_a_difference_is_that_of_the_tables(t: float, num_seeds: int, p: float) -> None:
    assert difference_p(at(t, num_seeds)) == pytest.approx(p, abs=1e-4)
    assert difference_p([-d for d in at(t, num_seeds)]) == pytest.approx(p, abs=1e-4)


@pytest.mark.parametrize(("t", "p"), [(2.132, 0.05), (0.0, 0.5), (-2.132, 0.95)])
def test_equivalence_is_the_weaker_of_two_one_sided_tests(t: float, p: float) -> None:
    """t is how many standard errors the nearer bound lies beyond the mean."""
    differences = at(3.0, 5)
    margin = float(np.mean(differences)) + t / math.sqrt(5)
    assert equivalence_p(differences, margin) == pytest.approx(p, abs=2e-4)
    assert equivalence_p([-d for d in differences], margin) == pytest.approx(p, abs=2e-4)


def test_differences_without_spread_are_certain() -> None:
    assert difference_p([0.0, 0.0]) == 1.0
    assert difference_p([0.1, 0.1]) == 0.0
    assert equivalence_p([0.1, 0.1], 0.2) == 0.0
    assert equivalence_p([0.3, 0.3], 0.2) == 1.0


def test_holm_steps_down() -> None:
    """As R's p.adjust(c(.01, .04, .03, .005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_knows_both_spreads() -> None:
    generator = np.random.default_rng(0)
    seeds_S, items_P = generator.normal(0, 0.3, 12), generator.normal(0, 1.0, 400)
    low, high = bootstrap_interval(0.1 + seeds_S[:, None] + items_P[None, :])
    error = math.hypot(seeds_S.std() / math.sqrt(12), items_P.std() / math.sqrt(400))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert low < 0.1 + seeds_S.mean() + items_P.mean() < high
    assert bootstrap_interval(np.full((2, 3), 0.25)) == (0.25, 0.25)


def test_correlation_has_fishers_interval() -> None:
    found = correlation([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0])
    assert found is not None
    assert found.value == pytest.approx(0.8)
    half = 1.96 / math.sqrt(2)
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(math.atanh(0.8) - half), math.tanh(math.atanh(0.8) + half)), abs=1e-3
    )
    assert correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) is None
    assert correlation([1.0] * 4, [1.0, 2.0, 3.0, 4.0]) is None
