"""docs/algorithm.md section 5: weights of sources, and the derivatives that move them."""

import random

import pytest

from coop_rl.algorithm import lookahead

FLOOR = 0.05
LOGITS = {"books": 0.3, "web": -0.4, "chat": 0.1}
"""source -> phi."""


def test_a_source_by_itself_pulls_nothing_whatever_its_product() -> None:
    """An optimiser that divides by a gradient's size would make a step of what rounding leaves."""
    drawn = random.Random(0)
    for _ in range(100):
        products = {lookahead.RL: drawn.gauss(0, 1), "books": drawn.gauss(0, 1)}
        derivatives = lookahead.source_derivatives(products, LOGITS, 0.4, FLOOR)
        assert set(derivatives.values()) == {0.0}, products


def test_one_undivided_source_gives_the_derivative_of_mix_alone() -> None:
    assert lookahead.mix_derivative({"rl": 2.0, "": 0.5}, {"": 1.0}) == 1.5


def test_source_weights_sum_to_one_above_the_floor() -> None:
    v = lookahead.source_weights({"a": 1000.0, "b": 0.0, "c": -1000.0}, FLOOR)
    assert v == pytest.approx({"a": 0.9, "b": 0.05, "c": 0.05})
    c = lookahead.example_weights({"a": 1.0, "b": 0.0, "c": -1.0})
    assert sum(c.values()) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="3 sources"):
        lookahead.source_weights(LOGITS, 0.4)
