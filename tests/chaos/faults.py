"""The faults that a run must survive, one row each."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.main_job.harness import Job, metrics

Find = Callable[[Job, Path], psutil.Process]
When = Callable[[Path, int], bool]


def actor(name: str) -> Find:
    """The process of an actor, by the name it has in logs and errors."""
    return lambda _, run_dir: psutil.Process(
        json.loads((run_dir / "actors.json").read_text())[name]["pid"]
    )


def driver(_: Job, run_dir: Path) -> psutil.Process:
    """The process that runs the loop."""
    return psutil.Process(json.loads((run_dir / "run.json").read_text())["pid"])


def ray_process(name: str) -> Find:
    """A process of Ray's own, by its program."""

    def find(job: Job, _: Path) -> psutil.Process:
        (found,) = (one for one in job.processes() if Path(one.cmdline()[0]).name == name)
        return found

    return find


def after_step(run_dir: Path, step: int) -> bool:
    """Whether a step is recorded."""
    path = run_dir / "metrics.jsonl"
    return path.exists() and any(row.get("step", -1) >= step for row in metrics(run_dir))


def while_saving(run_dir: Path, step: int) -> bool:
    """Whether a checkpoint is being written once a step is recorded."""
    return after_step(run_dir, step) and any((run_dir / "checkpoints").glob("tmp-*/*"))


@dataclass(frozen=True)
class Fault:
    """What is done to whom, and when."""

    name: str
    find: Find
    who: str
    """As the list `losses` of run.json names it."""
    number: int = signal.SIGKILL
    when: When = after_step
    overrides: tuple[str, ...] = ()


FAULTS = (
    Fault("SIGKILL of learner-joint-0", actor("learner-joint-0"), "learner-joint-0"),
    Fault("SIGKILL of learner-shadow-0", actor("learner-shadow-0"), "learner-shadow-0"),
    Fault("SIGKILL of meta-controller", actor("meta-controller"), "meta-controller"),
    Fault("SIGKILL of driver", driver, "driver"),
    Fault("SIGKILL of driver, saving", driver, "driver", when=while_saving),
    Fault("SIGKILL of raylet", ray_process("raylet"), "ray"),
    Fault("SIGKILL of gcs_server", ray_process("gcs_server"), "ray"),
    Fault(
        "SIGKILL of driver, with snapshots",
        driver,
        "driver",
        overrides=("recovery.snapshot_every=1", "checkpoint.every=0"),
    ),
)
