"""The start of a team's actors: their order, their devices, and what learners leave on them."""

import os
import signal
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from coop_rl.config import load_config
from coop_rl.distributed.actors import RewardActor, Whereabouts
from coop_rl.distributed.build import learner_environment
from coop_rl.distributed.calls import Call
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import Member
from coop_rl.distributed.sync_client import RayWeightSyncClient
from coop_rl.distributed.team import Team
from coop_rl.errors import WeightSyncError
from coop_rl.weights.allocator import ALLOCATOR_VARIABLES

DEMO = Path("configs/local/demo.yaml")


@cache
def timed_members() -> list[Member[Any]]:
    """Actors that only say when they started, two engines among them."""

    class Timed:
        """Local: Ray's workers can't import test modules."""

        def open_world(self) -> tuple[str, int]:
            return "127.0.0.1", 1

        def start(self, *_: Any) -> Whereabouts:
            began = time.monotonic()
            time.sleep(0.3)
            return Whereabouts("node", f"{began} {time.monotonic()}", os.getpid(), [])

        def connect_rollouts(self, _: Any) -> None:
            pass

    actor: Any = ray.remote(num_cpus=0)(Timed)
    names = ("rollout-0", "rollout-1", "reward", "learner-joint-0")
    members: list[Member[Any]] = [Member(name, actor.remote()) for name in names]
    ready = [member.handle.open_world.remote() for member in members]
    ray.get(ready, timeout=60)
    return members


def timed_team(engine_gpus: float) -> Team:
    members = timed_members()
    return Team(
        rollouts=tuple(members[:2]),
        rewards=(members[2],),
        joint=(members[3],),
        engine_gpus=engine_gpus,
    )


@pytest.mark.parametrize(("engine_gpus", "turns"), [(0.5, 3), (0.6, 2), (1.0, 1), (0.0, 1)])
def test_nobody_starts_on_a_device_where_an_engine_measures_what_is_free(
    local_ray: None, engine_gpus: float, turns: int
) -> None:
    team = timed_team(engine_gpus)
    team.start(60, 60, (), lambda _: None)
    times = {n: [float(t) for t in where.address.split()] for n, where in team.places.items()}
    first, second, learner = (times[n] for n in ("rollout-0", "rollout-1", "learner-joint-0"))
    assert (second[0] >= first[1]) == (turns == 3)
    assert (learner[0] >= max(first[1], second[1])) == (turns >= 2)


@pytest.mark.parametrize(("gpus", "visible"), [(0, ""), (0.5, "0")])
def test_an_actor_sees_the_devices_it_reserves_and_no_others(
    local_ray: None, tmp_path: Path, gpus: float, visible: str
) -> None:
    remote: Any = ray.remote(RewardActor)
    actor = remote.options(num_cpus=0, num_gpus=gpus).remote(load_config(DEMO), tmp_path / "log")
    seen = actor.__ray_call__.remote(lambda _: os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert ray.get(seen, timeout=60) == visible


@pytest.mark.parametrize("colocated", [False, True])
def test_a_learner_leaves_its_device_to_engines_after_each_turn(
    monkeypatch: pytest.MonkeyPatch, colocated: bool
) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("empty"))

    class Noting:
        """Notes what it is asked for."""

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: events.append(name)

    actor: Any = LearnerActor.__new__(LearnerActor)
    actor._config = load_config(DEMO, [f"placement.colocated={str(colocated).lower()}"])
    actor._learner = actor._publisher = Noting()
    actor.step(0, None, None)
    actor.score([])
    actor.fit([])
    actor.publish(None)
    emptied = ["empty"] * colocated
    turns = (["step"], ["score"], ["fit"], ["check_version", "publish"])
    assert events == [event for turn in turns for event in (*turn, *emptied)]
    events.clear()
    RayWeightSyncClient([], 1, 1.0, actor._leave_memory).finish_weight_update("1/1")
    assert events == ["empty"] * colocated


@pytest.mark.parametrize(
    ("workers", "told"), [(1, {"dies", "stops"}), (2, {"dies", "stops", "fails"})]
)
def test_a_failed_transfer_tells_of_each_engine_whether_it_is_lost(
    local_ray: None, workers: int, told: set[str]
) -> None:
    """Of several workers, one may give a late answer to the next call: such an engine is lost."""

    class Receiver:
        """Does in a sync what its name says."""

        def receive_weights(self, name: str) -> None:
            if name == "dies":
                os._exit(1)
            if name == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            if name == "fails":
                raise WeightSyncError("a member was lost")

        def pid(self) -> int:
            return os.getpid()

    actor: Any = ray.remote(num_cpus=0)(Receiver)
    names = ("fails", "dies", "stops", "receives")
    members: list[Member[Any]] = [Member(name, actor.remote()) for name in names]
    pids: list[int] = ray.get([member.handle.pid.remote() for member in members], timeout=60)
    client = RayWeightSyncClient(members, workers, 30.0, lambda: None)
    calls: list[Call[None]] = [
        Call(m.name, "receive weights", m.handle.receive_weights.remote(m.name)) for m in members
    ]
    with pytest.raises(WeightSyncError, match="dies died in receive weights"):
        client._wait(calls, 30.0, grace_s=5.0)
    assert client.lost.keys() == told
    assert client.lost["stops"].startswith("no answer within")
    os.kill(pids[2], signal.SIGKILL)


@pytest.mark.parametrize(
    ("gpus", "named", "is_set"),
    [(1.0, "[]", True), (0.3, "[HOME]", True), (0.0, "[]", False)]
    + [(1.0, f"[{name}]", False) for name in ALLOCATOR_VARIABLES],
)
def test_learners_on_gpus_alone_have_growing_blocks(
    gpus: float, named: str, *, is_set: bool
) -> None:
    found = learner_environment(load_config(DEMO, [f"placement.environment={named}"]), gpus)
    variables = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert found == ({"runtime_env": {"env_vars": variables}} if is_set else {})


def test_a_setting_of_the_users_own_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOCATOR_VARIABLES[1], "max_split_size_mb:128")
    assert learner_environment(load_config(DEMO, []), 1.0) == {}


def test_ray_gives_an_actor_the_setting_at_its_start(local_ray: None) -> None:
    class Reader:
        def read(self) -> str | None:
            return os.environ.get(ALLOCATOR_VARIABLES[0])

    remote: Any = ray.remote(Reader)
    actor = remote.options(num_cpus=0, **learner_environment(load_config(DEMO, []), 1.0)).remote()
    assert ray.get(actor.read.remote(), timeout=60) == "expandable_segments:True"
    ray.kill(actor)
