"""Learning rates over a run, against the formulas written out."""

import math
from itertools import pairwise

import pytest

from coop_rl.algorithm.schedules import rate_factor


def test_warm_up_is_linear_and_then_the_rate_is_full() -> None:
    factors = [rate_factor(k, 20, 4, "constant", 0.0) for k in range(8)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert rate_factor(0, 20, 0, "constant", 0.0) == 1.0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_decay_begins_after_the_warm_up_and_ends_at_the_final_share(schedule: str) -> None:
    factors = [rate_factor(k, 104, 4, schedule, 0.1) for k in range(105)]
    assert factors[4] == 1.0
    assert factors[54] == pytest.approx(0.55)
    assert factors[104] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(factors[4:]))
    quarter = {"linear": 0.775, "cosine": 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2}[schedule]
    assert factors[29] == pytest.approx(quarter)
