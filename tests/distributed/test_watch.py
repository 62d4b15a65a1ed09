"""The watch over real processes: what is stopped or stuck is killed by name, what computes is not.

With limits of a few seconds; a whole run's are in tests/main_job/test_hangs.py.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from coop_rl.config.recovery import RecoverySection
from coop_rl.distributed import watch as watch_module
from coop_rl.distributed.actors import Shell
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.heartbeat import BEAT_GROUP
from coop_rl.distributed.member import Member
from coop_rl.distributed.processes import catches
from coop_rl.distributed.watch import watching
from coop_rl.errors import ActorLostError

LIMITS = RecoverySection(silent_after_s=1.5, hung_after_s=4)


@dataclass
class Pair:
    all: list[Member[Any]]
    expendable: list[Member[Any]]


@pytest.fixture
def team(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(watch_module, "ASK_EVERY_S", 0.5)

    class Worker(Shell):
        """Local: Ray's workers can't import test modules."""

        def start(self) -> tuple[int, int]:
            self.child = subprocess.Popen(["sleep", "300"])
            self.door = threading.Barrier(2)
            return os.getpid(), self.child.pid

        def sleep(self, seconds: float) -> str:
            time.sleep(seconds)
            return "done"

        def meet(self) -> str:
            self.door.wait(30)
            return "met"

        def hold_the_lock(self, seconds: float) -> str:
            """Compute in one call of C: no other thread can run Python in it, however fast it is.

            A loop over shorter calls gives way between two of them, and there a beat gets through.
            """
            ends = time.monotonic() + seconds
            any(map(ends.__lt__, iter(time.monotonic, None)))
            return "done"

    untyped: Any = ray.remote
    remote = untyped(num_cpus=0, concurrency_groups={BEAT_GROUP: 1})(Worker)
    members: list[Member[Any]] = [
        Member(name, remote.options(max_concurrency=n).remote(tmp_path / f"{name}.log"))
        for name, n in (("a", 1), ("b", 2))
    ]
    return Pair(members, [])


def call(member: Member[Any], method: str, *arguments: Any) -> Call[Any]:
    return Call(member.name, method, getattr(member.handle, method).remote(*arguments))


@pytest.mark.parametrize(
    ("whose", "is_expendable"), [("its own process", False), ("its child", True)]
)
def test_what_is_stopped_is_named_and_killed_and_all_show_their_stacks(
    team: Pair, tmp_path: Path, whose: str, is_expendable: bool
) -> None:
    team.expendable = team.all * is_expendable
    said: list[str] = []
    noted: list[Any] = []
    with watching(LIMITS, team, said.append, tmp_path, noted.append):
        pids, _ = gather([call(member, "start") for member in team.all], 60)
        gather([call(team.all[0], "sleep", 1.0)], 30)  # a beat that says it has started
        os.kill(pids[whose == "its child"], signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ActorLostError, match=r"^a \(sleep\) ") as lost:
            gather([call(member, "sleep", 60.0) for member in reversed(team.all)], 50)
    assert time.monotonic() - began < 20
    assert (lost.value.actors, lost.value.cause) == (("a",), "hung")
    assert any(line.startswith("waiting ") and "for a (" in line for line in said)
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert " in sleep" in (tmp_path / "b.log").read_text()
    whole = [note for note in noted if set(note["actors"]) == {"a", "b"}]
    assert "sleep" in {call["phase"] for note in whole for call in note["driver_waits_for"]}


def test_what_computes_without_answering_is_left_alone(team: Pair) -> None:
    said: list[str] = []
    with watching(LIMITS, team, said.append):
        gather([call(member, "start") for member in team.all], 60)
        gather([call(team.all[0], "sleep", 1.0)], 30)
        assert gather([call(team.all[0], "hold_the_lock", 7.0)], 50) == ["done"]
        assert gather([call(team.all[1], "sleep", 0.1)], 50) == ["done"]
    assert any("computes" in line for line in said), said


def test_calls_at_once_are_as_many_as_the_actor_was_created_for(team: Pair) -> None:
    """The beat's group takes none of their threads, and gives none."""
    gather([call(member, "start") for member in team.all], 60)
    assert gather([call(team.all[1], "meet") for _ in range(2)], 50) == ["met"] * 2


def test_a_process_that_does_not_handle_the_signal_is_not_sent_it() -> None:
    """It would die of it."""
    plain = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not catches(plain.pid)
    finally:
        plain.kill()
        plain.wait()
