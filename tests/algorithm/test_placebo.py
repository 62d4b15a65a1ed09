"""The control of look-ahead guidance keeps the products' sizes and loses whom they belong to."""

import math

import numpy as np

from coop_rl.algorithm.placebo import POOL_STEPS, Placebo

NAMES = ("rl", "good", "bad")


def test_each_value_is_dealt_at_most_once_and_stems_from_the_last_steps() -> None:
    placebo = Placebo(0)
    for step in range(3 * POOL_STEPS):
        dealt = placebo.deal(step, {name: 10.0 * step + i for i, name in enumerate(NAMES)})
        assert tuple(dealt) == NAMES
        assert len(set(dealt.values())) == len(NAMES)
        ages = [step - value // 10 for value in dealt.values()]
        assert all(0 <= age < POOL_STEPS for age in ages)


def test_what_is_dealt_says_nothing_about_whom_it_belonged_to() -> None:
    placebo = Placebo(0)
    rows = [placebo.deal(k, {"rl": 0.0, "good": 1.0, "bad": -1.0}) for k in range(2000)]
    means = np.array([[row[name] for name in NAMES] for row in rows]).mean(0)
    # Four standard errors of a mean of values with variance 2/3.
    assert np.abs(means).max() < 4 * math.sqrt(2 / 3 / len(rows))


def test_single_demonstrations_get_each_others_slopes() -> None:
    slopes = {f"d{i}": float(i) for i in range(20)}
    dealt = Placebo(0).shuffle(3, slopes)
    assert sorted(dealt.values()) == sorted(slopes.values())
    assert dealt != slopes


def test_a_product_that_is_no_number_is_neither_kept_nor_hidden() -> None:
    placebo = Placebo(0)
    assert math.isnan(placebo.deal(0, {"rl": math.nan, "": 1.0})["rl"])
    assert placebo.state() == []


def test_draws_repeat_with_the_seed_and_the_past() -> None:
    first, second, other = Placebo(0), Placebo(0), Placebo(1)
    products = [{"rl": 0.1 * k, "": -0.3 * k} for k in range(9)]
    runs = [[p.deal(k, z) for k, z in enumerate(products)] for p in (first, second, other)]
    assert runs[0] == runs[1] != runs[2]
