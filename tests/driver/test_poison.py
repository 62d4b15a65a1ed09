"""Prompts that end the engine they are sampled on, told from those that shared it (without Ray)."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coop_rl.config import load_config
from coop_rl.distributed.calls import Call
from coop_rl.driver.fleet import Fleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.poison import MOST_LOSSES, Poison
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import ActorLostError, ResultLostError, RunError
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, SamplingSettings, ScoredGroup

CONFIG = load_config(Path("configs/local/demo.yaml"), ["rollout.max_num_seqs=4"])
SAMPLING = SamplingSettings(2, 1.0, 1.0, 4, 0)
VERSION = PolicyVersion(3, 3)


class Engine:
    """Dies of poison; answers nobody's calls by itself."""

    name = "rollout-0"

    def __init__(self) -> None:
        self.is_dead = False
        self.held: dict[Any, Prompt] = {}

    def call(self, _method: Any, prompt: Prompt, _sampling: Any) -> Call[Any]:
        ref: Any = object()
        self.held[ref] = prompt
        self.is_dead |= prompt.text == "poison"
        return Call(self.name, "generate", ref)


class Phoenix(Fleet):
    """Puts a new engine into a lost one's place at once."""

    are_ending = False
    """Whether the ends of their nodes were announced."""

    def is_ending(self, engine: int) -> bool:
        return self.are_ending

    def __init__(self, num_engines: int) -> None:
        self.engines: list[Any] = [Engine() for _ in range(num_engines)]
        super().__init__(self.engines)
        self.num_lost = 0

    def lose(self, engine: int, error: ActorLostError) -> None:
        if engine not in self._serving:
            return
        del self._serving[engine]
        self.num_lost += 1
        self._on_lost(engine)
        new: Any = Engine()
        self.engines.append(new)
        self._serving[self._num_ids] = new
        self._on_admitted(self._num_ids)
        self._num_ids += 1


class Judge:
    """Judges when it is told to, so that groups go to dead engines meanwhile."""

    def __init__(self, fleet: Phoenix) -> None:
        self.fleet = fleet
        self.waiting: list[tuple[Prompt, bool, Any, Callable[[RunError], None]]] = []
        """Prompt, whether its engine was dead when the call ended, and who waits."""

    def judge(self, sampled: Call[Any], on_scored: Any, on_failed: Any) -> None:
        engine = next(e for e in self.fleet.engines if sampled.ref in e.held)
        self.waiting.append((engine.held[sampled.ref], engine.is_dead, on_scored, on_failed))

    def refs(self) -> Sequence[Any]:
        return []


class Scene:
    """A generation whose events come in an order drawn from a seed."""

    def __init__(self, num_engines: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fleet, self.stages = Phoenix(num_engines), Stages()
        self.judge = Judge(self.fleet)
        self.told: list[str] = []
        scoring: Any = self.judge
        poison = Poison(self.stages, self.told.append)
        self.generation = TeamGeneration(CONFIG, self.fleet, scoring, StopRequest(), poison=poison)
        self.generation.change_weights(VERSION, lambda: None, is_read=True)
        self.served: dict[str, ScoredGroup] = {}
        self.running: Counter[str] = Counter()

    def submit(self, name: str, text: str = "") -> None:
        def start(version: PolicyVersion) -> None:
            assert version == VERSION
            self.running[name] += 1

        def serve(group: ScoredGroup, _sampler: str) -> None:
            assert name not in self.served
            group.require_version(VERSION, "nobody")
            self.served[name] = group

        def take_back() -> None:
            self.running[name] -= 1

        prompt = Prompt(name, text, (1, 2), "")
        self.generation.submit(prompt, SAMPLING, start, serve, take_back)

    def run(self, kills: int = 0) -> None:
        """Let calls end and verdicts come until nothing is under way."""
        while (refs := self.generation.refs()) or self.judge.waiting:
            if kills and self.rng.random() < 0.2:
                self.rng.choice(list(self.fleet.serving.values())).is_dead = True  # type: ignore[attr-defined]
                kills -= 1
            # A dead engine's calls fail at once, a living one's take their time.
            if self.judge.waiting and (not refs or self.rng.random() < 0.4):
                self._judge_one()
            else:
                self.generation.take(self.rng.choice(refs))

    def _judge_one(self) -> None:
        waiting = self.judge.waiting
        prompt, is_lost, on_scored, on_failed = waiting.pop(self.rng.randrange(len(waiting)))
        if is_lost:
            on_failed(ActorLostError("rollout-0 died in generate", ["rollout-0"]))
            return
        rollout = Rollout((1,), (0.0,), "", is_truncated=False, version=VERSION)
        on_scored(ScoredGroup(prompt, (rollout,) * 2, (Reward(1.0, True),) * 2))

    def crashed(self) -> set[str]:
        served = self.served.items()
        return {name for name, g in served if {r.status for r in g.rewards} == {"crashed"}}


@given(
    st.integers(1, 4),
    st.integers(1, 30),
    st.lists(st.integers(0, 29), max_size=3, unique=True),
    st.integers(0, 2**32),
)
@example(1, 8, [3], 0)
def test_poison_is_set_aside_by_name_nobody_else_is_and_all_others_are_served(
    num_engines: int, num_groups: int, poison: list[int], seed: int
) -> None:
    scene = Scene(num_engines, seed)
    bad = {str(i) for i in poison if i < num_groups}
    for i in range(num_groups):
        scene.submit(str(i), "poison" if str(i) in bad else "")
    scene.run()
    assert scene.served.keys() == {str(i) for i in range(num_groups)}
    assert scene.crashed() == bad
    assert set(scene.running.values()) == {1}  # what was given back was started again
    assert scene.fleet.num_lost <= MOST_LOSSES * len(bad)
    assert len(scene.told) == len(bad)
    assert scene.stages.take() == ({"recovered/poisoned_prompts": len(bad)} if bad else {})
    # It is known from now on, whoever asks.
    before = scene.fleet.num_lost
    scene.served.clear()
    for name in bad:
        scene.submit(name, "poison")
    scene.run()
    assert scene.served.keys() == scene.crashed() == bad
    assert scene.fleet.num_lost == before


@given(st.integers(1, 3), st.integers(0, 2**32))
def test_engines_that_die_of_something_else_cost_nobody_his_place(
    num_engines: int, seed: int
) -> None:
    scene = Scene(num_engines, seed)
    for i in range(20):
        scene.submit(str(i))
    scene.run(kills=MOST_LOSSES - 1)
    assert len(scene.served) == 20
    assert scene.crashed() == set()
    assert scene.told == []


def test_engines_that_die_with_announced_nodes_cost_nobody_his_place() -> None:
    scene = Scene(1, seed=0)
    scene.fleet.are_ending = True
    scene.submit("p7", "poison")
    for _ in range(2 * MOST_LOSSES):
        scene.generation.take(scene.generation.refs()[0])
        scene._judge_one()
    assert scene.fleet.num_lost == 2 * MOST_LOSSES
    assert scene.told == []
    scene.fleet.are_ending = False
    scene.run()
    assert scene.crashed() == {"p7"}


def test_the_line_names_the_prompt_and_a_lost_result_is_nobodys_fault() -> None:
    scene = Scene(1, seed=0)
    scene.submit("p7", "poison")
    scene.run()
    (line,) = scene.told
    assert line.startswith("prompt p7 is set aside: 3 engines in a row were lost while they")
    scene.submit("other")
    for _ in range(2 * MOST_LOSSES):
        scene.generation.take(scene.generation.refs()[0])
        ((_, _, _, on_failed),) = scene.judge.waiting
        scene.judge.waiting.clear()
        on_failed(ResultLostError("lost with its node"))
    scene.run()
    assert scene.crashed() == {"p7"}
    assert len(scene.told) == 1


def test_without_replacements_the_first_loss_ends_the_run() -> None:
    scene = Scene(1, seed=0)
    scene.fleet.lose = partial(Fleet.lose, scene.fleet)  # type: ignore[method-assign]
    scene.submit("a", "poison")
    with pytest.raises(ActorLostError):
        scene.run()
