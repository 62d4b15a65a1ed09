"""Nothing waits for ever, and every failure names an actor and a phase (real Ray)."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from coop_rl.distributed.calls import Call, breaking_off, gather
from coop_rl.errors import ActorLostError, RunError, VersionError


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def workers() -> list:
    # A local class travels by value: Ray's workers can't import test modules.
    class Worker:
        """Does what a test asks."""

        def pid(self) -> int:
            return os.getpid()

        def sleep(self, seconds: float) -> str:
            time.sleep(seconds)
            return "done"

        def fail(self, error: Exception) -> None:
            raise error

    actor: Any = ray.remote(num_cpus=0)(Worker)
    pair = [actor.remote(), actor.remote()]
    ray.get([w.pid.remote() for w in pair])
    return pair


def test_results_come_in_order(workers) -> None:
    calls = [
        Call("slow", "sleep", workers[0].sleep.remote(0.5)),
        Call("pid", "pid", workers[1].pid.remote()),
    ]
    slow, pid = gather(calls, 30)
    assert slow == "done"
    assert pid > 0


def test_a_check_breaks_off_a_wait_soon_and_only_while_asked_to(workers) -> None:
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 1:
            raise VersionError("enough")

    with pytest.raises(VersionError, match="enough"), breaking_off(check):
        gather([Call("slow", "sleep", workers[0].sleep.remote(8))], 30)
    assert time.monotonic() - began < 5
    gather([Call("pid", "pid", workers[1].pid.remote())], 30)


def test_time_limit_names_who_has_not_answered(workers) -> None:
    calls = [
        Call("rollout-0", "generate", workers[0].sleep.remote(60)),
        Call("reward", "score", workers[1].pid.remote()),
    ]
    started = time.monotonic()
    with pytest.raises(ActorLostError, match=r"no answer within 1 s from rollout-0 \(generate\)$"):
        gather(calls, 1)
    assert time.monotonic() - started < 5


def test_a_killed_actor_is_named(workers) -> None:
    pid = ray.get(workers[0].pid.remote())
    call = Call("learner-joint-0", "step", workers[0].sleep.remote(60))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorLostError, match="learner-joint-0 died in step"):
        gather([call], 30)


def test_the_dead_actor_is_named_not_the_peer_that_complains(workers) -> None:
    """A broken collective shows first on the survivor; the error must name the one that died."""
    pid = ray.get(workers[1].pid.remote())
    calls = [
        Call(
            "survivor", "publish", workers[0].fail.remote(RuntimeError("Connection closed by peer"))
        ),
        Call("victim", "receive", workers[1].sleep.remote(60)),
    ]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorLostError, match="victim died in receive"):
        gather(calls, 30)


def test_errors_of_ours_keep_their_type_and_gain_the_actor(workers) -> None:
    call = Call(
        "meta-controller", "update", workers[0].fail.remote(VersionError("theta3 is not theta2"))
    )
    with pytest.raises(VersionError, match="meta-controller, update: theta3 is not theta2"):
        gather([call], 30)
    call = Call("learner-joint-0", "step", workers[0].fail.remote(ValueError("shape mismatch")))
    with pytest.raises(RunError, match=r"learner-joint-0 failed in step: .*shape mismatch"):
        gather([call], 30)
