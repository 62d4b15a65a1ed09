"""Estimators against exact values."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.evaluation.estimators import (
    is_majority_correct,
    mean_interval,
    paired_difference,
    pass_at_k,
    seed_interval,
    t_quantile,
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
        (5, 56, 0.0387, 0.1926),
        (20, 20, 0.8389, 1.0000),
    ],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    estimate = wilson_interval(successes, trials)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)
    assert estimate.low <= estimate.value == successes / trials <= estimate.high


def test_near_0_and_1_the_interval_ends_at_the_poisson_limit() -> None:
    # 95 % of Poisson variables with mean 0.0513 are 0: chi-squared quantiles / 2 of Brown et al.
    assert wilson_interval(1, 29).low == pytest.approx(0.05129329 / 29)
    assert wilson_interval(28, 29).high == pytest.approx(1 - 0.05129329 / 29)
    for events, mean in enumerate((0.05129329, 0.35536151, 0.81769145), start=1):
        fewer = sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(events))
        assert fewer == pytest.approx(0.95, abs=1e-7)


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_its_value(trials: int, data: st.DataObject) -> None:
    estimate = wilson_interval(data.draw(st.integers(0, trials)), trials)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_mean_interval_holds_its_value(values: list[float]) -> None:
    estimate = mean_interval(values)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_paired_difference_holds_its_value_and_turns_around(pairs: list[tuple[float, ...]]) -> None:
    before, after = zip(*pairs, strict=True)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert there.low <= there.value <= there.high
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_many_problems_have_the_normal_interval() -> None:
    values = np.random.default_rng(1).beta(3, 5, size=2000)
    estimate = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.0005
    )


def test_right_or_wrong_has_wilsons_interval() -> None:
    values = [1.0] * 15 + [0.0] * 133
    ours, wilson = mean_interval(values), wilson_interval(15, 148)
    assert (ours.low, ours.high) == pytest.approx((wilson.low, wilson.high))


def test_a_few_problems_that_agree_do_not_make_an_interval_narrow() -> None:
    estimate = mean_interval([0.25] * 7)
    assert estimate.high - estimate.low > 0.2
    assert mean_interval([0.0] * 30).high > 0.1
    nothing = paired_difference([0.5] * 7, [0.5] * 7)
    assert nothing.low < -0.1 < 0.1 < nothing.high


def test_pairing_removes_what_problems_have_in_common() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 0.9, size=400)
    paired = paired_difference(list(hard), list(hard + 0.1))
    unpaired = paired_difference(list(hard), list(rng.permutation(hard) + 0.1))
    assert paired.value == pytest.approx(0.1)
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize(
    ("answers", "verdicts", "expected"),
    [
        (["7", "8", "7"], [True, False, True], True),
        (["8", "7", "8"], [False, True, False], False),
        (["7", "8"], [True, False], True),
        (["8", "7"], [False, True], False),
        (["", "", "7"], [False, False, True], True),
        (["", ""], [False, False], False),
        ([], [], False),
    ],
    ids=["right", "wrong", "tie, right first", "tie, wrong first", "silence", "nothing", "none"],
)
def test_majority(answers: list[str], verdicts: list[bool], expected: bool) -> None:
    assert is_majority_correct(answers, verdicts) is expected


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_t_quantiles_are_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=5e-5)


def test_interval_over_seeds() -> None:
    found = seed_interval([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_empty_and_unequal_input_is_refused() -> None:
    for call in (
        lambda: wilson_interval(0, 0),
        lambda: mean_interval([]),
        lambda: paired_difference([], []),
        lambda: paired_difference([0.0], [0.0, 1.0]),
        lambda: seed_interval([0.1]),
    ):
        with pytest.raises(ValueError, match="need"):
            call()
