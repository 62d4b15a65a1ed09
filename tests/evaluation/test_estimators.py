"""Estimators against exact values."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.evaluation.estimators import (
    bootstrap_mean,
    paired_difference,
    pass_at_k,
    wilson_interval,
)


@settings(deadline=None)
@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([i < c for i in range(n)], k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_extremes() -> None:
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)
    assert [pass_at_k(4, 0, 4), pass_at_k(4, 1, 4), pass_at_k(4, 4, 1)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses_nonsense(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="need 1 <= k <= n"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998 (Stat. Med. 17:857), table I, method 3: without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    estimate = wilson_interval(successes, trials)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
    assert estimate.low <= estimate.value == successes / trials <= estimate.high


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_its_value(trials: int, data: st.DataObject) -> None:
    estimate = wilson_interval(data.draw(st.integers(0, trials)), trials)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_bootstrap_agrees_with_the_normal_interval_on_many_problems() -> None:
    values = np.random.default_rng(1).normal(0.3, 0.2, size=1000)
    estimate = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.002)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.002)
    assert estimate == bootstrap_mean(values)


def test_bootstrap_of_equal_values_has_no_width() -> None:
    estimate = bootstrap_mean([0.25] * 7)
    assert (estimate.low, estimate.value, estimate.high) == (0.25, 0.25, 0.25)


def test_pairing_removes_what_problems_have_in_common() -> None:
    hard = np.random.default_rng(0).uniform(size=200)
    difference = paired_difference(list(hard), list(hard + 0.1))
    assert difference.value == pytest.approx(0.1)
    assert difference.high - difference.low < 1e-9


def test_empty_and_unequal_input_is_refused() -> None:
    for call in (
        lambda: wilson_interval(0, 0),
        lambda: bootstrap_mean([]),
        lambda: paired_difference([0.0], [0.0, 1.0]),
    ):
        with pytest.raises(ValueError, match="need"):
            call()
