"""Generation in the background of other waits, and weights that change meanwhile (real Ray)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from coop_rl.config import RunConfig, load_config
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.member import Member
from coop_rl.driver.fleet import Fleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.scoring import Scoring
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import ActorLostError, RunError, VersionError
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.types import PolicyVersion, Prompt, Reward, SamplingSettings, ScoredGroup
from tests.support.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.usefixtures("local_ray")
SAMPLING = SamplingSettings(2, 1.0, 1.0, 4, 0)
FIRST, NEXT = PolicyVersion(0, 0), PolicyVersion(1, 1)
Served = list[tuple[str, int, int]]
"""(prompt, version at its start, version it was sampled with)."""


@pytest.fixture(scope="module")
def pair(local_ray: None) -> list[Any]:
    class Engine:
        """Takes the prompt's text in seconds; samples with the version it has at the end."""

        def __init__(self) -> None:
            self._engine = ScriptedEngine()
            self._worker = RolloutWorker(self._engine)

        async def generate(self, prompt: Prompt, sampling: SamplingSettings) -> Any:
            import asyncio

            if not prompt.text:
                raise RunError("the engine does not like this prompt")
            await asyncio.sleep(float(prompt.text))
            return await self._worker.generate_group(prompt, sampling)

        async def finish_weight_update(self, version: str) -> None:
            await self._engine.finish_weight_update(version)

        async def sleep(self, seconds: float) -> None:
            import asyncio

            await asyncio.sleep(seconds)

    actor: Any = ray.remote(num_cpus=0, max_concurrency=64)(Engine)  # type: ignore[call-overload]
    return [actor.remote() for _ in range(2)]


@pytest.fixture
def engines(pair: list[Any]) -> list[Any]:
    """Up, with the weights of the beginning; what earlier tests asked of them may go on."""
    ray.get([engine.finish_weight_update.remote(str(FIRST)) for engine in pair])
    return pair


@pytest.fixture(scope="module")
def reward(local_ray: None) -> Member:
    class Judge:
        def score(self, group: Any) -> ScoredGroup:
            return ScoredGroup(group.prompt, group.rollouts, (Reward(1.0, True),) * 2)

    actor: Any = ray.remote(num_cpus=0)(Judge)
    judge = actor.remote()
    ray.get(judge.__ray_ready__.remote())
    return Member("reward", judge)


def configure(*overrides: str) -> RunConfig:
    few = ("rollout.max_num_seqs=2", "rollout.max_policy_lag=1", "method.kind=rl")
    return load_config(Path("configs/local/demo.yaml"), [*few, *overrides])


def generation(engines: list[Any], reward: Member, *overrides: str) -> TeamGeneration:
    members: list[Member[Any]] = [Member(f"rollout-{i}", e) for i, e in enumerate(engines)]
    return TeamGeneration(configure(*overrides), Fleet(members), Scoring([reward]), StopRequest())


def submit(role: TeamGeneration, name: str, seconds: float, served: Served) -> None:
    started: list[int] = []

    def note(group: ScoredGroup, _sampler: str) -> None:
        served.append((name, started[0], group.rollouts[0].version.theta))

    prompt = Prompt(name, str(seconds), (1, 2), "")
    role.submit(prompt, SAMPLING, lambda version: started.append(version.theta), note)


def sender(engines: list[Any], log: list[str] | None = None) -> Callable[[], None]:
    """Return what makes the engines serve `NEXT`."""

    def send() -> None:
        version = str(NEXT)
        calls: list[Call[None]] = [
            Call("a", "finish", e.finish_weight_update.remote(version)) for e in engines
        ]
        gather(calls, 10)
        if log is not None:
            log.append("sent")

    return send


def test_groups_go_on_while_the_driver_waits_for_something_else(engines, reward) -> None:
    role, served = generation(engines, reward), Served()
    with role.serving():
        for i in range(12):  # 2 engines hold 2 groups each, so most wait in the driver
            submit(role, str(i), 0.05, served)
        gather([Call("learner", "step", engines[0].sleep.remote(3.0))], 10)
        assert len(served) == 12


def test_weights_change_between_groups(engines, reward) -> None:
    role, served = generation(engines, reward), Served()
    with role.serving():
        for i in range(8):
            submit(role, str(i), 0.5, served)
        role.change_weights(NEXT, sender(engines), is_read=True)
        role.wait_until(lambda: len(served) == 8)
    # Those under way ended first, the others began after.
    assert all(start == sampled for _, start, sampled in served)
    assert {start for _, start, _ in served} == {0, 1}


def test_in_flight_the_weights_change_at_once(engines, reward) -> None:
    role = generation(engines, reward, "rollout.in_flight_updates=true")
    served = Served()
    with role.serving():
        for i in range(4):
            submit(role, str(i), 1.5, served)
        began = time.monotonic()
        role.change_weights(NEXT, sender(engines), is_read=True)
        assert time.monotonic() - began < 1.4
        role.wait_until(lambda: len(served) == 4)
    assert (0, 1) in {(start, sampled) for _, start, sampled in served}


def test_weights_nobody_reads_are_sent_once_somebody_samples(engines, reward) -> None:
    role = generation(engines, reward)
    stale: list[str] = []
    sent: list[str] = []
    role.change_weights(FIRST, sender([], stale), is_read=False)
    role.change_weights(NEXT, sender(engines, sent), is_read=False)
    assert sent == []
    groups = role.run([Prompt("a", "0.01", (1,), "")], SAMPLING, NEXT)
    assert (stale, sent) == ([], ["sent"])
    assert groups[0].rollouts[0].version == NEXT


def test_an_evaluation_shares_the_engines_with_groups_under_way(engines, reward) -> None:
    role, served = generation(engines, reward), Served()
    with role.serving():
        submit(role, "long", 60.0, served)
        prompts = [Prompt(str(i), "0.01", (i,), "") for i in range(9)]
        groups = role.run(prompts, SAMPLING, FIRST)
        assert [group.prompt.id for group in groups] == [str(i) for i in range(9)]
        assert served == []
        with pytest.raises(VersionError, match="rollout-"):
            role.run(prompts, SAMPLING, NEXT)


def test_a_failure_in_the_background_names_the_engine(engines, reward) -> None:
    role, served = generation(engines, reward), Served()
    with role.serving():
        role.submit(Prompt("bad", "", (1,), ""), SAMPLING, lambda _: None, lambda *_: None)
        with pytest.raises(RunError, match=r"rollout-0, generate: .*does not like"):
            gather([Call("learner", "step", engines[1].sleep.remote(5.0))], 10)
    assert served == []


def test_a_lost_engine_is_named_and_a_silent_one_ends_the_wait(engines, reward) -> None:
    """The last one: an engine of all is killed."""
    role, served = generation(engines, reward, "placement.call_timeout_s=1"), Served()
    submit(role, "never", 60.0, served)
    began = time.monotonic()
    with pytest.raises(ActorLostError, match=r"rollout-0 \(generate\)"):
        role.wait_until(lambda: bool(served))
    assert time.monotonic() - began < 5
    role = generation(engines, reward)
    submit(role, "never", 60.0, served)
    ray.kill(engines[0])
    with pytest.raises(ActorLostError, match="rollout-0 died in generate"):
        role.wait_until(lambda: bool(served))
