"""Nothing waits for ever, and every failure names an actor and a phase (real Ray)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    LocalRayletDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
)

from coop_rl.distributed.calls import Call, _explain, breaking_off, gather, gather_all
from coop_rl.errors import ActorLostError, RunError, VersionError

pytestmark = pytest.mark.usefixtures("local_ray")


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


def test_every_call_has_an_outcome_and_who_is_late_after_a_failure_hangs(workers) -> None:
    pid = ray.get(workers[1].pid.remote())
    calls: list[Call[Any]] = [
        Call("rollout-0", "receive", workers[0].pid.remote()),
        Call("rollout-1", "receive", workers[1].sleep.remote(60)),
        Call("rollout-2", "receive", workers[0].sleep.remote(60)),
    ]
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    fine, died, hung = gather_all(calls, 40, grace_s=1)
    assert time.monotonic() - began < 20
    assert isinstance(fine, int)
    assert isinstance(died, ActorLostError)
    assert (died.actors, died.cause) == (("rollout-1",), "died")
    assert isinstance(hung, ActorLostError)
    assert (hung.actors, hung.cause) == (("rollout-2",), "hung")


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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OutOfMemoryError("1 worker(s) were killed\n" + "x\n" * 99),
            "ran out of memory in step: Ray ended",
        ),
        (ActorDiedError(), "died in step: The actor died unexpectedly"),
        (RaySystemError("lost"), "failed in step: System error: lost"),
        (LocalRayletDiedError(), "failed in step: The task's local raylet died"),
        (ObjectLostError("0" * 40, None, ""), "ended step, and the result is lost with its node"),
    ],
)
def test_whatever_ray_raises_is_one_line(error: RayError, told: str) -> None:
    nobody: Any = None
    found = str(_explain(Call("learner-joint-0", "step", nobody), error, []))
    assert found.startswith(f"learner-joint-0 {told}")
    assert "\n" not in found


def test_a_local_rays_lost_process_is_seen_at_once_and_the_status_is_true(tmp_path: Path) -> None:
    """In a process of its own: what is asked of Ray afterwards may end it."""
    command = [sys.executable, "-c", LOST_RAYLET, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    addresses, token = done.stdout.splitlines()[:2]
    assert json.loads(addresses) == ["127.0.0.1"]  # Ray's and the worker's, metrics included
    assert token == "64 token"
    assert "RayLostError Ray's own process raylet (exit code -9) died on this" in done.stdout
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


LOST_RAYLET = """
import json, os, signal, sys, threading, time
from pathlib import Path
import psutil, ray
from coop_rl.config import load_config
from coop_rl.config.sizes import Devices
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.cluster import ray_session
from coop_rl.errors import RayLostError
from coop_rl.observability.run_directory import RunDirectory

class Worker:
    def sleep(self, seconds):
        time.sleep(seconds)

config = load_config(Path("configs/local/demo.yaml"))
try:
    with (
        RunDirectory.open(config, Path(sys.argv[1])).running() as status,
        ray_session(config.placement, Devices(cpus={}, gpus={}), "lost"),
        status.ending(),
    ):
        worker = ray.remote(num_cpus=0)(Worker).remote()
        ray.get(worker.sleep.remote(0))
        time.sleep(5)  # the agent of the node is the last to listen
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = [c for p in ours for c in p.net_connections("inet") if c.status == "LISTEN"]
        print(json.dumps(sorted({c.laddr.ip.removeprefix("::ffff:") for c in sockets})))
        print(len(os.environ["RAY_AUTH_TOKEN"]), os.environ["RAY_AUTH_MODE"], flush=True)
        raylet = ray._private.worker._global_node.all_processes["raylet"][0].process
        threading.Timer(0.5, os.kill, (raylet.pid, signal.SIGKILL)).start()
        gather([Call("learner", "step", worker.sleep.remote(100))], 10)
except RayLostError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
"""
