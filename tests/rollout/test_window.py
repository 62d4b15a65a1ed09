"""The window: each prompt once, none too old, in order; the router: the engine that owes least."""

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.rollout.router import Router
from coop_rl.rollout.window import Place, Window


def rows_of(per_step: int):
    return lambda step: range(step * per_step, (step + 1) * per_step)


class Simulation:
    """Steps of a window whose groups finish in random order."""

    def __init__(self, window: Window, per_step: int, max_lag: int, seed: int) -> None:
        self.window, self.per_step, self.max_lag = window, per_step, max_lag
        self.random = random.Random(seed)
        self.started_at: dict[Place, int] = {}
        self.under_way: list[Place] = []
        self.dull: set[int] = set()
        self.dropped: list[Place] = []

    def start(self, places: list[Place], step: int) -> None:
        for place in places:
            assert place not in self.started_at
            self.started_at[place] = step
            self.under_way.append(place)

    def finish_one(self, step: int) -> None:
        place = self.under_way.pop(self.random.randrange(len(self.under_way)))
        instead = self.window.finish(place, is_informative=place.row not in self.dull)
        if instead is not None:
            self.start([instead], step)

    def step(self, step: int) -> list[Place]:
        self.start(self.window.begin(step), step)
        assert len(self.under_way) <= self.per_step * (self.max_lag + 1)
        while (chosen := self.window.choose()) is None:
            self.finish_one(step)
        for _ in range(self.random.randint(0, len(self.under_way))):  # while the learners train
            self.finish_one(step)
        self.dropped += chosen.dropped
        assert list(chosen.places) == sorted(chosen.places)
        assert len(chosen.places) == self.per_step
        for place in chosen.places:
            assert step - self.started_at[place] <= self.max_lag
        return list(chosen.places)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.integers(0, 4), st.integers(0, 10**6))
def test_every_prompt_is_trained_once_and_in_time(per_step: int, max_lag: int, seed: int) -> None:
    simulation = Simulation(Window(per_step, max_lag, rows_of(per_step)), per_step, max_lag, seed)
    trained = [place for step in range(12) for place in simulation.step(step)]
    rows = [place.row for place in trained]
    assert len(set(rows)) == len(rows)
    # None starves: what the first steps began with is trained by the time it is due.
    assert set(range(per_step * (12 - max_lag))) <= set(rows)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1), st.integers(0, 10**6))
def test_lags_of_0_and_1_do_not_depend_on_what_finishes_first(
    per_step: int, max_lag: int, seed: int
) -> None:
    simulation = Simulation(Window(per_step, max_lag, rows_of(per_step)), per_step, max_lag, seed)
    for step in range(6):
        rows = [place.row for place in simulation.step(step)]
        assert rows == list(rows_of(per_step)(step))


def test_a_longer_lag_lets_short_responses_overtake() -> None:
    window = Window(4, 3, rows_of(4))
    places = window.begin(0)
    assert len(places) == 4 + window.num_ahead == 12
    for place in places[3:7]:
        window.finish(place, is_informative=True)
    chosen = window.choose()
    assert chosen is not None
    assert [place.row for place in chosen.places] == [3, 4, 5, 6]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.sets(st.integers(0, 200)))
def test_dynamic_sampling_does_not_depend_on_what_finishes_first(
    per_step: int, seed: int, dull: set[int]
) -> None:
    def refills(step: int):
        return iter([(step * 31 + 7 * i) % 200 for i in range(3 * per_step)])

    def batches(order: int) -> list[list[Place]]:
        window = Window(per_step, 0, rows_of(per_step), refills)
        simulation = Simulation(window, per_step, 0, order)
        simulation.dull = dull
        found = [simulation.step(step) for step in range(4)]
        return [*found, simulation.dropped]

    assert batches(seed) == batches(seed + 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6), st.sets(st.integers(0, 60)))
def test_dynamic_sampling_with_a_lag_keeps_what_teaches(
    per_step: int, max_lag: int, seed: int, dull: set[int]
) -> None:
    window = Window(
        per_step, max_lag, rows_of(per_step), lambda k: iter(range(1000 + 9 * k, 1009 + 9 * k))
    )
    simulation = Simulation(window, per_step, max_lag, seed)
    simulation.dull = dull
    trained = [place for step in range(8) for place in simulation.step(step)]
    assert len(set(trained)) == len(trained)
    rows = {place.row for place in trained}
    informative = set(range(per_step * (8 - max_lag))) - dull
    # Refills can push a prompt back only as far as it is due.
    assert informative <= rows | {place.row for place in window._due}


def test_when_refills_are_used_up_dull_groups_fill_the_batch() -> None:
    window = Window(3, 0, rows_of(3), lambda _: islice(iter([100, 0, 101]), 3))
    started = window.begin(0)
    found = [window.finish(place, is_informative=False) for place in started]
    assert [place.row for place in found if place] == [100, 101]  # 0 was had already
    for place in found:
        if place:
            window.finish(place, is_informative=place.row == 101)
    chosen = window.choose()
    assert chosen is not None
    assert [place.row for place in chosen.places] == [0, 1, 101]
    assert [place.row for place in chosen.dropped] == [2, 100]


@pytest.mark.parametrize("new_lag", [0, 1, 2])
def test_a_resumed_run_starts_what_was_on_its_way_first(new_lag: int) -> None:
    window = Window(4, 2, rows_of(4))
    simulation = Simulation(window, 4, 2, seed=5)
    trained = [place for step in range(3) for place in simulation.step(step)]
    state = window.state()
    again = Window(4, new_lag, rows_of(4)).restore(3, state)
    simulation = Simulation(again, 4, new_lag, seed=6)
    trained += [place for step in range(3, 9) for place in simulation.step(step)]
    rows = [place.row for place in trained]
    assert len(set(rows)) == len(rows) == 36
    assert set(range(28)) <= set(rows)


def test_without_a_lag_there_is_nothing_to_keep() -> None:
    window = Window(4, 0, rows_of(4))
    assert window.state() == {}
    assert [p.row for p in window.restore(5, {}).begin(5)] == [20, 21, 22, 23]


def test_the_engine_that_owes_least_is_next_and_none_gets_more_than_it_has_room_for() -> None:
    router: Router[str] = Router(2, room=8)
    for name, tokens in (("a", 100), ("b", 10), ("c", 10), ("d", 10), ("e", 1)):
        router.add(name, 4, tokens, is_urgent=False)
    assert [router.assign() for _ in range(4)] == [("a", 0), ("b", 1), ("c", 1), None]
    assert router.num_queued == 2
    router.done(1, 4, 10)
    router.add("urgent", 4, 10, is_urgent=True)
    assert router.assign() == ("urgent", 1)
    router.done(0, 4, 100)
    assert [router.assign(), router.assign(), router.assign()] == [("d", 0), ("e", 0), None]


def test_a_group_larger_than_the_room_has_an_engine_for_itself() -> None:
    router: Router[str] = Router(1, room=8)
    router.add("large", 20, 5, is_urgent=False)
    router.add("small", 1, 5, is_urgent=False)
    assert router.assign() == ("large", 0)
    assert router.assign() is None
    router.done(0, 20, 5)
    assert router.assign() == ("small", 0)
