"""Processes of a node, from that node: their state, their stacks, their end.

In this process where the node is ours, else in a Ray task there. Called by `distributed.watch`.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coop_rl.distributed.heartbeat import STACK_SIGNAL

REMOTE_LIMIT_S = 10.0
"""How long another node may take to answer; a task's process has to start there."""
WRITING_S = 0.2
"""How long a process takes to write its stacks, so that two of one log do not mix."""

P = ParamSpec("P")
R = TypeVar("R")


def on_nodes(
    work: Callable[Concatenate[Mapping[str, int], P], dict[str, R]],
    pids: Mapping[str, Mapping[str, int]],
    *arguments: P.args,
    **named: P.kwargs,
) -> dict[str, R]:
    """Do `work` on every node, on its actors' processes; a node that does not answer is left out.

    Args:
        work: Gets {actor: process id} of one node, and the further arguments.
        pids: The same by node id.
        arguments: What `work` gets besides.
        named: The same.
    """
    here = ray.get_runtime_context().get_node_id()
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(work)
    asked = []
    for node, theirs in pids.items():
        if node != here:
            where = NodeAffinitySchedulingStrategy(node, soft=False)
            task = remote.options(scheduling_strategy=where)
            asked.append(task.remote(theirs, *arguments, **named))
    found = work(pids[here], *arguments, **named) if here in pids else {}
    ready = ray.wait(asked, num_returns=len(asked), timeout=REMOTE_LIMIT_S)[0] if asked else []
    for ref in ready:
        with suppress(RayError):
            found |= ray.get(ref)
    return found


def look(pids: Mapping[str, int]) -> dict[str, tuple[str, float]]:
    """Return each actor's state and seconds of CPU; those that are gone are left out."""
    found: dict[str, tuple[str, float]] = {}
    for actor, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = process.cpu_times()
            found[actor] = process.status(), times.user + times.system
    return found


def show_stacks(pids: Mapping[str, int], logs: Path | None) -> dict[str, tuple[str, float]]:
    """Let each actor, and its processes, write their stacks to the actor's log; return as `look`.

    A process that is stopped cannot write, which the log then says.
    """
    for actor, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess, OSError):
                    _show(one, logs / f"{actor}.log" if logs else None)
    return look(pids)


def _show(process: psutil.Process, log: Path | None) -> None:
    state, is_able = process.status(), catches(process.pid)
    if log:
        told = "stacks" if is_able and state != "stopped" else "no stacks to be had"
        with log.open("a") as file:
            file.write(f"\n{told} of pid {process.pid} {process.name()}, {state}:\n")
    if is_able:
        os.kill(process.pid, STACK_SIGNAL)
        time.sleep(WRITING_S)


def catches(pid: int) -> bool:
    """Whether a process handles the signal that shows stacks, which would end any other."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (STACK_SIGNAL - 1) & 1)
    return False


def kill_trees(pids: Mapping[str, int]) -> dict[str, bool]:
    """Kill actors' processes and all below them, stopped ones as well; True where one was there."""
    found = {}
    for actor, pid in pids.items():
        found[actor] = psutil.pid_exists(pid)
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for one in (*process.children(recursive=True), process):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    return found
