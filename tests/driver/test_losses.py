"""Rollout and reward actors that are killed while a run goes on (real Ray, scripted engines)."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import ray

from coop_rl.config import RunConfig, load_config
from coop_rl.distributed.actors import Whereabouts
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.member import Member
from coop_rl.distributed.team import Team
from coop_rl.driver.elastic import Elastic, Places
from coop_rl.driver.fleet import Engine, SyncedFleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.replacement import Replacements
from coop_rl.driver.scoring import Scoring
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import ActorLostError, BudgetSpentError, ResultLostError
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, Reward, SamplingSettings, ScoredGroup
from tests.support.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.usefixtures("local_ray")
SAMPLING = SamplingSettings(2, 1.0, 1.0, 4, 0)
NEVER = "600"
"""Seconds that a first engine takes for a prompt."""
FIRST, NEXT = PolicyVersion(0, 0), PolicyVersion(1, 1)


def engine_class() -> Any:
    class ScriptedActor:
        """A prompt's text is how long the first ones take; local: Ray can't import test modules."""

        def __init__(self) -> None:
            self._engine = ScriptedEngine()
            self._worker = RolloutWorker(self._engine)
            self._calls: list[str] = []

        async def start(self, lost: Any = None, pause_s: float = 0.0) -> Whereabouts:
            self._calls.append("start")
            self._is_first, self._pause_s = lost is None, pause_s
            return Whereabouts(f"node {os.getpid()}", "127.0.0.1", os.getpid(), [])

        async def generate(self, prompt: Prompt, sampling: SamplingSettings) -> Any:
            import asyncio

            self._calls.append(f"generate {prompt.id}")
            if prompt.text and self._is_first:
                await asyncio.sleep(float(prompt.text))
            await asyncio.sleep(0.01)
            return await self._worker.generate_group(prompt, sampling)

        async def finish_weight_update(self, version: str) -> None:
            if version == self._dies_of:
                os._exit(1)
            self._calls.append(f"receive {version}")
            await self._engine.finish_weight_update(version)

        _dies_of = ""

        async def die_of(self, version: str) -> None:
            self._dies_of = version

        async def calls(self) -> list[str]:
            return self._calls

        async def pause_s(self) -> float:
            return self._pause_s

    return ray.remote(num_cpus=0, max_concurrency=64)(ScriptedActor)  # type: ignore[call-overload]


def judge_class() -> Any:
    class Judge:
        """Dies of one answer."""

        def start(self, pause_s: float = 0.0) -> Whereabouts:
            return Whereabouts("node", "127.0.0.1", os.getpid(), [])

        def score(self, group: Any) -> ScoredGroup:
            if group.prompt.answer == "poison":
                os._exit(1)
            return ScoredGroup(group.prompt, group.rollouts, (Reward(1.0, True),) * 2)

    return ray.remote(num_cpus=0)(Judge)


shared_judge = cache(lambda: judge_class().remote())


@cache
def learner_actor() -> Any:
    """One for all scenes."""

    class Learner:
        """Sends a version to every engine; says who was lost instead of failing."""

        def connect_rollouts(self, engines: list[Any]) -> None:
            self._engines = engines

        def publish(self, version: PolicyVersion) -> Any:
            from types import SimpleNamespace

            import ray

            lost = []
            for engine in self._engines:
                try:
                    ray.get(engine.handle.finish_weight_update.remote(str(version)))
                except ray.exceptions.RayActorError:
                    lost.append((engine.name, f"{engine.name} died in receive weights"))
            return SimpleNamespace(num_bytes=1, seconds=0.0, shares_memory=True, lost=tuple(lost))

    return ray.remote(num_cpus=0)(Learner).remote()


@dataclass
class Scene:
    """A team of scripted actors, its generation, and what was told of it."""

    num_engines: int = 2
    overrides: Sequence[str] = ()
    places: Places | None = None
    kills_judge: bool = False
    """Then it has one of its own; the others share one."""
    log: list[str] = field(default_factory=list)
    served: dict[str, ScoredGroup] = field(default_factory=dict)
    returned: list[str] = field(default_factory=list)
    stages: Stages = field(default_factory=Stages)
    team: Team = field(init=False)
    fleet: SyncedFleet = field(init=False)
    scoring: Scoring = field(init=False)
    generation: TeamGeneration = field(init=False)

    def __post_init__(self) -> None:
        make: dict[str, Callable[[], Any]] = {
            f"rollout-{i}": engine_class().remote for i in range(self.num_engines)
        }
        make["reward"] = judge_class().remote
        names = list(make)[:-1]
        learner: Member[Any] = Member("learner-joint-0", learner_actor())
        self.team = Team(
            rollouts=tuple(Member(name, make[name]()) for name in names),
            rewards=(Member("reward", make["reward"]() if self.kills_judge else shared_judge()),),
            joint=(learner,),
            remake=lambda name: Member(name, make.get(name, engine_class().remote)()),
        )
        connect: Any = learner.handle.connect_rollouts.remote(list(self.team.rollouts))
        gather([Call("learner-joint-0", "connect", connect)], 60)
        members = self.team.rollouts
        places = gather([Call(m.name, "start", m.handle.start.remote()) for m in members], 60)
        self.team.places = dict(zip(names, places, strict=True))
        config = self.config()
        told = (self.stages, self.log.append, lambda: self.log.append("noted"))
        self.fleet = SyncedFleet(
            config,
            self.team.rollouts,
            self.team.joint,
            Replacements.of_rollouts(config, self.team, *told),
            self.check,
            stages=self.stages,
            elastic=Elastic(self.team, self.places, 3, *told[1:], every_s=0)
            if self.places
            else None,
        )
        self.scoring = Scoring(self.team.rewards, Replacements.of_rewards(config, self.team, *told))
        self.generation = TeamGeneration(config, self.fleet, self.scoring, StopRequest())

    def config(self) -> RunConfig:
        few = ("rollout.max_num_seqs=2", "method.kind=rl", "placement.call_timeout_s=60")
        return load_config(Path("configs/local/demo.yaml"), [*few, *self.overrides])

    def check(
        self, version: PolicyVersion, _engines: Sequence[Engine], new: Sequence[Engine]
    ) -> None:
        for engine in new:
            calls: list[str] = ray.get(engine.handle.calls.remote())
            self.log.append(f"canary of {engine.name} after {', '.join(calls)}")

    def submit(self, name: str, text: str = "", answer: str = "") -> None:
        def note(group: ScoredGroup, _sampler: str) -> None:
            assert name not in self.served
            self.served[name] = group

        prompt = Prompt(name, text, (1, 2), answer)
        back = partial(self.returned.append, name)
        self.generation.submit(prompt, SAMPLING, lambda _: None, note, back)

    def publish(self, version: PolicyVersion) -> None:
        send = partial(self.fleet.publish, version)
        self.generation.change_weights(version, send, is_read=True)

    def wait_for(self, count: int) -> None:
        self.generation.wait_until(lambda: len(self.served) == count)

    def wait_until_up(self) -> None:
        self.generation.wait_until(lambda: "noted" in self.log)

    def kill(self, index: int = 0) -> None:
        ray.kill(self.team.rollouts[index].handle)


def text_of(group: ScoredGroup) -> list[tuple[int, ...]]:
    return [rollout.token_ids for rollout in group.rollouts]


def test_groups_of_a_lost_engine_are_sampled_by_another_with_the_same_seeds() -> None:
    calm, struck = Scene(), Scene()
    for scene in (calm, struck):
        scene.publish(FIRST)
        for i in range(6):
            scene.submit(str(i), NEVER if scene is struck and i < 2 else "")
        if scene is struck:
            scene.kill(0)
            # The second engine is busy for ever with a group: it is lost as well, later.
            scene.generation.wait_until(lambda: len(struck.served) >= 1 or "noted" in struck.log)
            scene.kill(1)
        scene.wait_for(6)
    assert {n: text_of(g) for n, g in struck.served.items()} == {
        n: text_of(g) for n, g in calm.served.items()
    }
    assert {"0", "1"} <= set(struck.returned)
    assert calm.returned == []


def test_a_new_engine_starts_joins_gets_the_weights_passes_the_canary_and_only_then_samples() -> (
    None
):
    scene = Scene()
    scene.publish(FIRST)
    scene.submit("a", "3")
    scene.kill(0)
    scene.wait_for(1)  # the other engine has sampled it
    scene.wait_until_up()
    scene.submit("b")
    scene.wait_for(2)
    new = scene.team.rollouts[0]
    assert ray.get(new.handle.calls.remote()) == ["start"]
    assert ray.get(new.handle.pause_s.remote()) == scene.config().recovery.backoff_s == 1.0
    scene.publish(NEXT)
    for i in range(4):
        scene.submit(f"c{i}")
    scene.wait_for(6)
    calls = ray.get(new.handle.calls.remote())
    assert calls[:2] == ["start", f"receive {NEXT}"]
    assert len(calls) > 2
    lost, noted, canary, back = scene.log
    assert lost.startswith("lost rollout-0, which is replaced: rollout-0 died in generate")
    assert (noted, canary) == ("noted", f"canary of rollout-0 after start, receive {NEXT}")
    assert back.startswith("rollout-0 is back after ")
    assert scene.stages.take("recovered/") == {"recovered/rollouts": 1}
    assert "rollout-0" in scene.team.places


def test_where_the_last_engine_is_lost_the_wait_goes_on_with_its_replacement() -> None:
    scene = Scene(num_engines=1)
    scene.publish(FIRST)
    for i in range(5):
        scene.submit(str(i), NEVER if i == 0 else "")
    scene.kill()
    scene.wait_for(5)
    assert ray.get(scene.team.rollouts[0].handle.calls.remote())[:2] == [
        "start",
        f"receive {FIRST}",
    ]
    assert {g.rollouts[0].version for g in scene.served.values()} == {FIRST}


@pytest.mark.parametrize("num_engines", [1, 2])
def test_a_sync_that_loses_a_receiver_goes_round_again_with_the_others(num_engines: int) -> None:
    scene = Scene(num_engines)
    scene.publish(FIRST)
    ray.get(scene.team.rollouts[0].handle.die_of.remote(str(NEXT)))
    scene.publish(NEXT)
    assert len(scene.fleet.serving) == num_engines - 1
    scene.submit("a")
    scene.wait_for(1)
    assert scene.served["a"].rollouts[0].version == NEXT
    assert scene.log[0].startswith("lost rollout-0, which is replaced: rollout-0 died in receive")


@pytest.mark.parametrize(
    ("limit", "error", "text"),
    [
        (0, ActorLostError, "^rollout-0 died in generate"),
        (1, BudgetSpentError, "^2 losses within 50 steps, and recovery.rollout_restarts lets 1 be"),
    ],
)
def test_losses_beyond_the_budget_end_the_run(limit: int, error: type, text: str) -> None:
    scene = Scene(1, [f"recovery.rollout_restarts={limit}"])
    scene.publish(FIRST)
    scene.submit("a", NEVER)

    def lose_one_after_the_other() -> None:
        for _ in range(1 + limit):
            scene.kill()
            scene.submit("b", NEVER)
            scene.generation.wait_until(lambda: scene.fleet.serving == {})
            scene.generation.wait_until(lambda: bool(scene.fleet.serving))

    with pytest.raises(error, match=text):
        lose_one_after_the_other()


def test_before_the_first_publish_nobody_could_bring_a_new_engine_up_to_date() -> None:
    scene = Scene(1)
    scene.submit("a", NEVER)
    scene.kill()
    with pytest.raises(ActorLostError, match="rollout-0 died"):
        scene.wait_for(1)


def test_a_group_that_is_lost_with_the_node_that_held_it_is_sampled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene, lost = Scene(1), ["a"]
    judge = scene.scoring.judge

    def lose_the_first(sampled: Any, on_scored: Any, on_failed: Any) -> None:
        if lost:
            on_failed(ResultLostError(f"{lost.pop()} is lost with its node"))
        else:
            judge(sampled, on_scored, on_failed)

    monkeypatch.setattr(scene.scoring, "judge", lose_the_first)
    scene.submit("a")
    scene.wait_for(1)
    assert scene.returned == ["a"]
    calls: list[str] = ray.get(scene.team.rollouts[0].handle.calls.remote())
    assert calls == ["start", "generate a", "generate a"]
    assert scene.log == []


def test_what_a_lost_reward_actor_held_is_judged_again() -> None:
    scene = Scene(kills_judge=True)
    ray.kill(scene.team.rewards[0].handle)
    for i in range(8):
        scene.submit(str(i))
    scene.wait_for(8)
    assert {r.status for g in scene.served.values() for r in g.rewards} == {"scored"}
    assert scene.stages.take("recovered/") == {"recovered/reward_actors": 1}


def test_a_group_that_kills_its_reward_actor_twice_counts_as_crashed_and_no_other_does() -> None:
    scene = Scene(kills_judge=True)
    for i in range(6):
        scene.submit(str(i), answer="poison" if i == 3 else "")
    scene.wait_for(6)
    assert {
        name for name, g in scene.served.items() if {r.status for r in g.rewards} == {"crashed"}
    } == {"3"}
    assert {r.status for n, g in scene.served.items() if n != "3" for r in g.rewards} == {"scored"}
    assert scene.log.count("noted") <= 2


def test_reward_actors_share_the_groups() -> None:
    members: list[Member[Any]] = [Member(f"reward-{i}", judge_class().remote()) for i in range(2)]
    scoring = Scoring(members)
    engine = engine_class().remote()
    calls: list[Call[Any]] = [
        Call(
            "rollout-0", "generate", engine.generate.remote(Prompt(str(i), "", (1,), ""), SAMPLING)
        )
        for i in range(4)
    ]
    for call in calls:
        scoring.judge(call, lambda _: None, lambda _: None)
    assert [call.actor for call in scoring.calls()] == ["reward-0", "reward-1"] * 2
    ray.wait(list(scoring.refs()), num_returns=4)
