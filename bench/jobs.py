"""Whole training runs for the bench scripts, with roles pinned to cores."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
DEMO = "configs/local/demo.yaml"
LEAN = (
    "evaluation.num_items=16",
    "evaluation.num_samples=1",
    "checkpoint.every=0",
    "sync.canary_every=0",
    "observability.tensorboard=false",
    "learner.grad_stats_every=0",
)
"""Overrides that leave out what is not a step."""
WARM_UP_STEPS, PIN_EVERY_S, LIMIT_S = 3, 0.5, 900.0


def run(overrides: Sequence[str], cores: Mapping[str, int], config: str = DEMO) -> dict[str, float]:
    """Train and return the median of every metric over the steps that `rows_of` returns."""
    rows = rows_of(overrides, cores, config)
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
    return {name: median(row.get(name) or 0.0 for row in rows) for name in names}


def rows_of(
    overrides: Sequence[str], cores: Mapping[str, int], config: str = DEMO
) -> list[dict[str, Any]]:
    """Train and return the metrics of the steps after the first three.

    Args:
        overrides: Of the config.
        cores: Beginning of an actor's name, such as `rollout`, to the core that all threads of
            its processes are pinned to; others run where they want.
        config: What is trained.
    """
    with tempfile.TemporaryDirectory() as folder:
        sets = [f"--set={value}" for value in overrides]
        command = [sys.executable, "-m", "coop_rl", "train", config, "--run-dir", f"{folder}/run"]
        log = Path(folder) / "terminal.log"
        with log.open("w") as file:
            job = subprocess.Popen([*command, *sets], cwd=ROOT, stdout=file, stderr=file)
            num_pinned = _watch(job, cores)
        if job.returncode or (cores and not num_pinned):
            sys.exit(f"{overrides} failed (pinned {num_pinned}):\n{log.read_text()[-2000:]}")
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "time/train_s" in row][WARM_UP_STEPS:]


def _watch(job: "subprocess.Popen[bytes]", cores: Mapping[str, int]) -> int:
    """Keep the roles' threads pinned until the run ends; returns how many processes were."""
    deadline, driver, most = time.monotonic() + LIMIT_S, psutil.Process(job.pid), 0
    while job.poll() is None:
        if time.monotonic() > deadline:
            job.terminate()
        with suppress(psutil.Error):
            most = max(most, _pin(driver, cores))
        time.sleep(PIN_EVERY_S)
    return most


def _pin(driver: psutil.Process, cores: Mapping[str, int]) -> int:
    count = 0
    for actor in driver.children(recursive=True):
        core = next((core for name, core in cores.items() if _name(actor).startswith(name)), None)
        if core is not None:
            with suppress(psutil.Error):
                for process in (actor, *actor.children(recursive=True)):
                    count += 1
                    for thread in process.threads():
                        with suppress(OSError):  # it ended meanwhile
                            os.sched_setaffinity(thread.id, {core})
    return count


def _name(process: psutil.Process) -> str:
    """Return an actor's name: it is that of the log its output goes to."""
    try:
        return Path(f"/proc/{process.pid}/fd/1").readlink().name
    except OSError:
        return ""


def by_turns(kinds: Sequence[Any], repeats: int) -> list[Any]:
    """Return the order of runs: each kind `repeats` times, and each as often first as last."""
    return [kind for n in range(repeats) for kind in (kinds if n % 2 == 0 else kinds[::-1])]
