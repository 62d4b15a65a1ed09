"""Step time at lag 1 over that at lag 0: `python bench/overlap.py` (2 cores, Linux).

Whole runs of the demo with `method.kind=rl`, lag 0 and lag 1 by turns. In both, every thread of the
rollout actor and of vLLM's processes is pinned to core 0, every thread of the learner to core 1;
driver, reward pool and Ray's daemons are left alone. Sizes are such that generating and training
take about as long at lag 0, which the table shows. A run counts with the median of its steps after
the first three; the ratio is that of the medians over runs. Writes bench/overlap.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "overlap.json"
SETTINGS = (
    "method.kind=rl",  # bridge trains two to three times as long as it generates here
    "evaluation.num_items=16",
    "evaluation.num_samples=1",
    "checkpoint.every=0",
    "sync.canary_every=0",
    "observability.tensorboard=false",
    "learner.grad_stats_every=0",
)
CORE_OF = {"ray::RolloutActor": 0, "ray::LearnerActor": 1, "ray::MetaControllerActor": 1}
WARM_UP_STEPS, PIN_EVERY_S = 3, 0.5
STAGES = ("step", "generate", "train", "update", "wait_generation", "publish")
SECONDS_PER_RUN = 900


def pin(driver: psutil.Process) -> int:
    """Pin the roles' threads as they are now; returns how many processes were pinned."""
    count = 0
    for actor in driver.children(recursive=True):
        with suppress(psutil.Error):
            core = next((c for name, c in CORE_OF.items() if name in _title(actor)), None)
            if core is not None:
                for process in (actor, *actor.children(recursive=True)):
                    _pin_threads(process, core)
                    count += 1
    return count


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _pin_threads(process: psutil.Process, core: int) -> None:
    for thread in process.threads():
        with suppress(OSError):  # it ended meanwhile
            os.sched_setaffinity(thread.id, {core})


def run(lag: int, num_steps: int, overrides: list[str]) -> dict[str, Any]:
    """Train, pinned, and return the medians of the stages."""
    with tempfile.TemporaryDirectory() as folder:
        lengths = (f"run.num_steps={num_steps}", f"rollout.max_policy_lag={lag}")
        sets = [f"--set={value}" for value in (*SETTINGS, *overrides, *lengths)]
        command = [sys.executable, "-m", "coop_rl", "train", "configs/local/demo.yaml"]
        log = Path(folder) / "terminal.log"
        with log.open("w") as file:
            job = subprocess.Popen(
                [*command, "--run-dir", f"{folder}/run", *sets], cwd=ROOT, stdout=file, stderr=file
            )
            deadline, driver, pinned = (
                time.monotonic() + SECONDS_PER_RUN,
                psutil.Process(job.pid),
                0,
            )
            while job.poll() is None:
                if time.monotonic() > deadline:
                    job.terminate()
                with suppress(psutil.Error):
                    pinned = max(pinned, pin(driver))
                time.sleep(PIN_EVERY_S)
        if job.returncode or not pinned:
            sys.exit(f"the run at lag {lag} failed (pinned {pinned}):\n{log.read_text()[-2000:]}")
        rows = list(_steps(Path(folder) / "run/metrics.jsonl"))[WARM_UP_STEPS:]
    stages = {s: median(row.get(f"time/{s}_s", 0.0) for row in rows) for s in STAGES}
    return {
        "lag": lag,
        "processes": pinned,
        **stages,
        "lags": sorted({r["policy/lag"] for r in rows}),
    }


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "reward/mean" in row:
            yield row


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], help="config override, such as a.b=c")
    given = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for repeat in range(given.repeats):
        # By turns, and the first place too: what the machine does meanwhile hits both.
        for lag in (0, 1) if repeat % 2 == 0 else (1, 0):
            runs.append(run(lag, given.steps, given.set))
            sys.stderr.write(f"{runs[-1]}\n")
    step = {lag: [r["step"] for r in runs if r["lag"] == lag] for lag in (0, 1)}
    ratios = [b / a for a, b in zip(step[0], step[1], strict=True)]
    ratio = median(step[1]) / median(step[0])
    results = {"ratio": ratio, "ratios": ratios, "settings": [*SETTINGS, *given.set], "runs": runs}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = Table("lag", *(f"{s}, s" for s in STAGES), title=f"{given.repeats} runs each, medians")
    for lag in (0, 1):
        own = [r for r in runs if r["lag"] == lag]
        table.add_row(str(lag), *(f"{median(r[s] for r in own):.3f}" for s in STAGES))
    Console().print(table)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    Console().print(f"lag 1 / lag 0: {ratio:.3f} (pairs {spread})")


if __name__ == "__main__":
    main()
