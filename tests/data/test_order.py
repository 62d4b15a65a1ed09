"""The order is a function of (seed, step): whole epochs, and the same after a resume."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.data.order import SeededOrder

sizes = st.integers(1, 40)


@settings(deadline=None)
@given(sizes, sizes, st.integers(0, 2**40), st.integers(0, 3))
def test_each_epoch_visits_each_row_once(
    num_rows: int, per_step: int, seed: int, epoch: int
) -> None:
    order = SeededOrder(num_rows, per_step, seed)
    num_steps = -(-num_rows * (epoch + 1) // per_step)
    rows = [row for step in range(num_steps) for row in order.batch(step)]
    assert sorted(rows[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


@settings(deadline=None)
@given(sizes, sizes, st.integers(0, 99), st.integers(0, 10**6))
def test_a_step_does_not_depend_on_what_was_asked_before(
    num_rows: int, per_step: int, seed: int, step: int
) -> None:
    resumed = SeededOrder(num_rows, per_step, seed).batch(step)
    running = SeededOrder(num_rows, per_step, seed)
    for earlier in range(max(0, step - 3), step):
        running.batch(earlier)
    assert running.batch(step) == resumed
    assert len(resumed) == per_step


def test_seeds_epochs_and_streams_differ() -> None:
    orders = [
        SeededOrder(100, 100, seed, stream).batch(s)
        for seed, stream, s in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_of_a_seed_never_changes() -> None:
    """A resume with another numpy would otherwise repeat some rows and skip others in silence."""
    assert SeededOrder(8, 4, seed=3).batch(0) == [6, 7, 2, 1]


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs rows"):
        SeededOrder(0, 4, 0).batch(0)
