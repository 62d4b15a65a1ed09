"""What a run's start costs, process by process: `python bench/startup.py` (2 cores, Linux).

Runs the demo with one step, and reads from outside when each milestone is printed and how many CPU
seconds every process has used by the time step 1 begins (after the evaluation before it). With
`--before PATH`, another checkout, both run by turns and stand side by side. Of several runs the
fastest counts. Writes bench/results.d/startup.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from jobs import DEMO, ROOT, by_turns
from report import Detail, Measure, save
from rich.console import Console
from rich.table import Table

TARGET_S = 20.0
"""From the command to the beginning of step 1, on a quiet machine."""
MILESTONES = {
    "run directory": "checked",
    "actors are up": "actors up",
    "are connected": "connected",
    "engines compute": "first sync and canary",
    "evaluated after 0": "step 1 begins",
    "step 1/1": "step 1 done",
    "evaluated after 1": "evaluated after",
}
"""Part of a printed line: what it says."""
BEGINS, ENDS = "step 1 begins", "ended"
KINDS = {
    "VLLM::EngineCore": "engine core",
    "VLLM::Worker": "engine worker",
    "engine_process": "engine front end",
    "gcs_server": "gcs",
    "raylet": "raylet",
    "default_worker": "spare Ray worker",
    "ray::IDLE": "spare Ray worker",
    "ray/dashboard": "Ray's dashboard agents",
    "ray/_private": "Ray's other daemons",
    "spawn_main": "reward process",
}
"""Part of a command line: what the process is."""
SAMPLE_EVERY_S = 0.1


@dataclass
class Start:
    """One run: when its milestones were, and what its processes had used at the beginning."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)


def run(checkout: Path, overrides: Sequence[str]) -> Start:
    """Run the demo's first step in a checkout."""
    found, began = Start(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sets = [f"--set={value}" for value in ("run.num_steps=1", *overrides)]
        job = subprocess.Popen(
            [sys.executable, "-m", "coop_rl", "train", DEMO, "--run-dir", f"{folder}/run", *sets],
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdout=subprocess.PIPE,
            text=True,
        )
        watching = threading.Thread(target=_watch, args=(job.pid, found))
        watching.start()
        assert job.stdout is not None
        for line in job.stdout:
            for part, milestone in MILESTONES.items():
                if part in line:
                    found.seconds.setdefault(milestone, time.monotonic() - began)
        if job.wait():
            sys.exit(f"the run failed with exit code {job.returncode}")
        found.seconds[ENDS] = time.monotonic() - began
        watching.join()
    return found


def _watch(pid: int, found: Start) -> None:
    """Note the CPU seconds of a run's processes, dead ones included, until step 1 begins."""
    cpu: dict[tuple[int, float], float] = {}
    names: dict[tuple[int, float], str] = {}
    with suppress(psutil.Error):
        driver = psutil.Process(pid)
        while BEGINS not in found.seconds and driver.status() != psutil.STATUS_ZOMBIE:
            for process in (driver, *driver.children(recursive=True)):
                with suppress(psutil.Error):
                    times, key = process.cpu_times(), (process.pid, process.create_time())
                    cpu[key] = times.user + times.system
                    names[key] = "driver" if process == driver else _name(process)
            time.sleep(SAMPLE_EVERY_S)
    for key, seconds in cpu.items():
        found.cpu[names[key]] = found.cpu.get(names[key], 0.0) + seconds


def _name(process: psutil.Process) -> str:
    """Return what a process is: the actor whose log it writes, and its kind."""
    command = " ".join(process.cmdline())
    kind = next((name for part, name in KINDS.items() if part in command), "")
    log = Path(f"/proc/{process.pid}/fd/1")
    with suppress(OSError):
        target = log.readlink()
        if target.suffix == ".log" and target.parent.name == "logs" and "run/" in str(target):
            return f"{target.stem} {kind}".strip()
    return kind or process.name()


def table_of(starts: Mapping[str, Start]) -> Table:
    """Return milestones and CPU seconds, one column a checkout."""
    table = Table(title="start-up, in seconds", title_justify="left")
    table.add_column("wall clock, and CPU by process until step 1 begins", overflow="fold")
    for name in starts:
        table.add_column(name, justify="right")
    columns = list(starts.values())
    for milestone in (*MILESTONES.values(), ENDS):
        table.add_row(milestone, *(f"{s.seconds.get(milestone, 0.0):.1f}" for s in columns))
    table.add_section()
    for name in sorted({name for start in columns for name in start.cpu}):
        table.add_row(name, *(f"{s.cpu.get(name, 0.0):.1f}" for s in columns))
    table.add_section()
    table.add_row("all CPU", *(f"{sum(s.cpu.values()):.1f}" for s in columns))
    return table


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--set", action="append", default=[], help="config override, such as a.b=c")
    given = parser.parse_args()
    checkouts = {"before": given.before} if given.before else {}
    checkouts["now"] = ROOT
    runs: dict[str, list[Start]] = {name: [] for name in checkouts}
    for name in by_turns(tuple(checkouts), given.repeats):
        runs[name].append(run(checkouts[name], given.set))
    best = {name: min(found, key=lambda s: s.seconds[BEGINS]) for name, found in runs.items()}
    Console().print(table_of(best))
    seconds = sorted(start.seconds[BEGINS] for start in runs["now"])
    detail: Detail = {"ours": seconds[0], "reference": TARGET_S, "unit": "s"}
    ratios = [value / TARGET_S for value in seconds]
    name = "seconds to step 1 over 20"
    measured = Measure(name, ratios[0], ratios[0], ratios[-1], 1.0, False, detail)
    sys.stdout.write(f"{measured}\n")
    save("startup", [measured])


if __name__ == "__main__":
    main()
