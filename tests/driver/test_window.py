"""The window of lag L under random durations: what a step is trained on, and what never happens."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.driver.router import Router, Work
from coop_rl.driver.window import Slot, Window

NUM_ROWS = 1000


@dataclass
class Scene:
    """Engines of bounded room, durations from a seed, publishes with or without a drain."""

    per_step: int
    max_lag: int
    num_steps: int
    seed: int = 0
    num_engines: int = 2
    max_refills: int = 0
    dull_share: float = 0.0
    drains: bool = True
    loss_share: float = 0.0
    """How often an engine is lost, and replaced, instead of a group ending."""
    largest: int = 0
    batches: list[list[Slot]] = field(default_factory=list)
    dropped: list[list[Slot]] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.window = self.new_window()
        self.reset()

    def new_window(self) -> Window:
        return Window(self.per_step, self.max_lag, self.max_refills, self.num_steps, self.row_of)

    def reset(self) -> None:
        self.router: Router[Slot] = Router(range(self.num_engines), max_sequences=3)
        self.running: dict[Slot, tuple[int, Work[Slot]]] = {}
        self.started: dict[Slot, int] = {}
        self.version = 0
        self.num_lost = 0

    def row_of(self, slot: Slot) -> int:
        return slot.position % NUM_ROWS if not slot.is_refill else (slot.position * 7) % NUM_ROWS

    def is_dull(self, slot: Slot) -> bool:
        return random.Random(self.row_of(slot)).random() < self.dull_share

    def submit(self, slots: list[Slot]) -> None:
        for slot in slots:
            self.router.add(Work(slot, 1, self.random.randint(1, 100)))
        self.start()

    def start(self) -> None:
        for engine, work in self.router.start():
            self.running[work.item] = engine, work
            self.started[work.item] = self.version
            self.window.started(work.item, self.version)
        self.largest = max(self.largest, self.window.size)

    def lose_one(self) -> None:
        """Lose an engine; another one comes in its place, with another id."""
        lost = self.random.choice(sorted(self.router._loads))
        for work in self.router.remove(lost):
            del self.running[work.item]
            self.window.returned(work.item)
        self.router.add_engine(self.num_engines + self.num_lost)
        self.num_lost += 1

    def end_one(self, *, starts: bool = True) -> None:
        if self.random.random() < self.loss_share:
            self.lose_one()
            if starts:
                self.start()
            return
        slot = self.random.choice(sorted(self.running))
        self.router.finish(*self.running.pop(slot))
        refill = self.window.finished(slot, is_informative=not self.is_dull(slot))
        if refill:
            self.router.add(Work(refill, 1, self.random.randint(1, 100)))
        if starts:
            self.start()

    def step(self, step: int) -> None:
        self.version = step
        self.start()
        self.submit(self.window.begin(step))
        while not self.window.is_ready(step):
            self.end_one()
        batch, dropped = self.window.take(step)
        self.batches.append(batch)
        self.dropped.append(dropped)
        self.ages += [step - self.started[slot] for slot in batch]
        for _ in range(self.random.randint(0, 2 * self.per_step)):  # while learners train
            if self.running:
                self.end_one()
        while self.drains and self.running:
            self.end_one(starts=False)

    def play(self) -> "Scene":
        for step in range(self.num_steps):
            self.step(step)
        return self


scenes = st.builds(
    Scene,
    per_step=st.integers(1, 6),
    max_lag=st.integers(0, 3),
    num_steps=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    num_engines=st.integers(1, 5),
    drains=st.booleans(),
    loss_share=st.sampled_from((0.0, 0.1, 0.4)),
)
dynamic = st.builds(
    Scene,
    per_step=st.integers(1, 6),
    max_lag=st.integers(0, 3),
    num_steps=st.integers(1, 8),
    seed=st.integers(0, 2**32),
    num_engines=st.integers(1, 5),
    max_refills=st.integers(1, 3),
    dull_share=st.sampled_from((0.2, 0.6, 1.0)),
    drains=st.booleans(),
    loss_share=st.sampled_from((0.0, 0.1, 0.4)),
)


@given(scenes)
@settings(max_examples=200, deadline=None)
def test_every_prompt_is_trained_once_and_none_is_too_old(scene: Scene) -> None:
    scene.play()
    trained = [slot.position for batch in scene.batches for slot in batch]
    assert sorted(trained) == list(range(scene.per_step * scene.num_steps))
    assert all(len(batch) == scene.per_step for batch in scene.batches)
    assert all(batch == sorted(batch) for batch in scene.batches)
    assert 0 <= min(scene.ages) <= max(scene.ages) <= scene.max_lag
    assert scene.largest <= (scene.max_lag + 1) * scene.per_step


@given(dynamic)
@settings(max_examples=200, deadline=None)
def test_dynamic_sampling_keeps_sizes_ages_and_never_wastes_a_group_that_says_something(
    scene: Scene,
) -> None:
    scene.play()
    assert all(len(batch) == scene.per_step for batch in scene.batches)
    assert max(scene.ages) <= scene.max_lag
    assert scene.largest <= (scene.max_lag + 1) * scene.per_step
    dropped = [slot for slots in scene.dropped for slot in slots]
    assert all(scene.is_dull(slot) for slot in dropped)
    used = Counter(slot for batch in scene.batches for slot in batch) + Counter(dropped)
    assert set(used.values()) == {1}
    for step, (batch, vain) in enumerate(zip(scene.batches, scene.dropped, strict=True)):
        rows = [scene.row_of(slot) for slot in (*batch, *vain)]
        if scene.max_lag == 0:
            assert len(set(rows)) == len(rows)
            main = [s.position for s in sorted((*batch, *vain)) if not s.is_refill]
            assert main == list(range(step * scene.per_step, (step + 1) * scene.per_step))


@given(
    st.integers(1, 6),
    st.sampled_from((0.0, 0.3, 0.7, 1.0)),
    st.lists(st.integers(0, 2**32), min_size=2, max_size=4),
)
@settings(deadline=None)
def test_without_a_lag_neither_the_order_of_ends_nor_losses_matter(
    per_step: int, dull_share: float, seeds: list[int]
) -> None:
    played = [
        Scene(
            per_step, 0, 4, seed, 1 + i, max_refills=2, dull_share=dull_share, loss_share=0.3 * i
        ).play()
        for i, seed in enumerate(seeds)
    ]
    assert all(scene.batches == played[0].batches for scene in played)
    assert all(scene.dropped == played[0].dropped for scene in played)
    assert set(played[0].ages) == {0}


@pytest.mark.parametrize("max_lag", [1, 2])
def test_a_slow_group_is_waited_for_only_when_it_must_be(max_lag: int) -> None:
    window = Window(2, max_lag, 0, 10, lambda slot: slot.position)
    slots = window.begin(0)
    assert len(slots) == 2 * (max_lag + 1)
    slow = slots[0]
    for step in range(max_lag + 1):
        for slot in slots:
            window.started(slot, step)
            if slot != slow:
                window.finished(slot, is_informative=True)
        if step == max_lag:
            assert not window.is_ready(step)
            window.finished(slow, is_informative=True)
        assert window.is_ready(step)
        batch, _ = window.take(step)
        assert (slow in batch) == (step == max_lag)
        slots = window.begin(step + 1)


@given(scenes, st.integers(1, 11), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_resumed_window_loses_and_repeats_nothing(
    scene: Scene, stop: int, has_groups: bool
) -> None:
    stop = min(stop, scene.num_steps)
    for step in range(stop):
        scene.step(step)
    if scene.max_lag == 0:
        return
    state = json.loads(json.dumps(scene.window.state()))
    scene.window, started = scene.new_window(), scene.started
    scene.reset()
    scene.started = started if has_groups else {}
    scene.version = stop
    scene.submit(scene.window.restore(state, has_groups=has_groups))
    for step in range(stop, scene.num_steps):
        scene.step(step)
    trained = [slot.position for batch in scene.batches for slot in batch]
    assert sorted(trained) == list(range(scene.per_step * scene.num_steps))
    assert max(scene.ages) <= scene.max_lag
