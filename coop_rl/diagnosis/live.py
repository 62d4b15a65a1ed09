"""What a run under way is doing: who waits for whom, from what its driver writes.

    driver --every few seconds, while it waits--> waiting.json --run_findings--> `doctor --run`

Nothing is asked of the run itself, so it can be looked at from any machine that sees its folder,
also while its Ray answers nobody.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from coop_rl.diagnosis.finding import Finding, judge
from coop_rl.errors import RunDirectoryError

STALE_S = 15.0
"""Beyond so many seconds without a word the driver does not wait: it writes every 5 s then."""
SILENT_S = 20.0
"""An actor that owes an answer for so long is stopped, or in C code that keeps Python's lock."""
STOPPED = ("stopped", "tracing-stop")


def run_findings(run: Path, now: datetime | None = None) -> Iterator[Finding]:
    """Yield how a run's driver and its actors are.

    Args:
        run: The run's folder.
        now: The time; None: by the clock.

    Raises:
        RunDirectoryError: It holds no run.
    """
    try:
        status = json.loads((run / "run.json").read_text(encoding="utf-8"))
        state, host, pid = status["status"], status["host"], status["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunDirectoryError(
            f"{run} holds no run that can be read (run.json); give the folder of one to --run"
        ) from None
    if state != "running":
        error = f": {status['error']}" if status.get("error") else ""
        yield Finding("run", "ok", f"{state} at {status.get('ended_at')}{error}")
        return
    driver = _state_of(pid) if host == socket.gethostname() else "on another machine"
    found = f"running since {status.get('resumed_at') or status.get('started_at')}, pid {pid}"
    yield judge(
        "run",
        driver not in ("gone", *STOPPED),
        f"{found} on {host}, {driver}",
        "the driver was killed: the same command goes on from the last checkpoint"
        if driver == "gone"
        else f"kill -CONT {pid}",
    )
    yield from _waits(run, now or datetime.now(UTC))


def _waits(run: Path, now: datetime) -> Iterator[Finding]:
    try:
        waits = json.loads((run / "waiting.json").read_text(encoding="utf-8"))
        age_s = (now - datetime.fromisoformat(waits["at"])).total_seconds()
        yield _driver(waits, age_s)
        for actor, beat in waits["actors"].items():
            yield _actor(actor, beat, age_s)
    except FileNotFoundError:
        yield Finding("driver", "ok", "has waited for nobody yet: it starts")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield Finding("driver", "warn", "waiting.json cannot be read", "look again in 5 s")


def _driver(waits: Mapping[str, Any], age_s: float) -> Finding:
    named = [
        f"{call['actor']} ({call['phase']}" + f" x {call['calls']}" * (call["calls"] > 1) + ")"
        for call in waits["driver_waits_for"]
    ]
    seconds = waits["driver_waits_s"] + age_s
    text = f"waits {seconds:.0f} s for {', '.join(named)}" if named else "waits for nobody"
    if age_s <= STALE_S:
        return Finding("driver", "ok", text)
    fix = "look at its CPU use; while it computes it asks no actor"
    return Finding("driver", "warn", f"computes, or is stopped, for {age_s:.0f} s", fix)


def _actor(actor: str, beat: Mapping[str, Any], age_s: float) -> Finding:
    seconds = beat["seconds"] + age_s
    text = f"{beat['phase'] or 'idle'} for {seconds:.0f} s"
    if beat["phase"] and beat["usual_s"] is not None:
        text += f" (usually {beat['usual_s']:.1f} s)"
    if beat["num_open"] > 1:
        text += f", {beat['num_open']} calls"
    if beat["version"]:
        text += f", version {beat['version']}"
    stopped = [c for c in beat["children"] if c["state"] in STOPPED]
    for child in stopped:
        text += f"; {child['name']} (pid {child['pid']}) is {child['state']}"
    silent_s = beat["silent_s"]
    if silent_s >= SILENT_S:
        text += f"; has not answered for {silent_s:.0f} s"
    where = f"pid {beat['pid']} on node {beat['node_id'][:6]}; its stacks are in logs/{actor}.log"
    return judge(actor, not stopped and silent_s < SILENT_S, text, where, "warn")


def _state_of(pid: int) -> str:
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return "gone"
