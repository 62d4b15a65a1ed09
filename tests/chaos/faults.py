"""The faults that a run must survive: a scene is one run, which they strike one after the other."""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.struck import Deaths, StruckJob
from tests.main_job.harness import Job, metrics

Find = Callable[[Job, Path], Sequence[psutil.Process]]
When = Callable[[Path, int], bool]


def actors(*names: str) -> Find:
    """The processes of actors, by the names they have in logs and errors."""

    def find(_: Job, run_dir: Path) -> Sequence[psutil.Process]:
        places = json.loads((run_dir / "actors.json").read_text())
        return [psutil.Process(places[name]["pid"]) for name in names]

    return find


def below(actor: str, title: str) -> Find:
    """A process that an actor has started, by its command line."""

    def find(job: Job, run_dir: Path) -> Sequence[psutil.Process]:
        (process,) = actors(actor)(job, run_dir)
        children = process.children(recursive=True)
        return [one for one in children if title in " ".join(one.cmdline())][:1]

    return find


def driver(_: Job, run_dir: Path) -> Sequence[psutil.Process]:
    """The process that runs the loop."""
    return [psutil.Process(json.loads((run_dir / "run.json").read_text())["pid"])]


def ray_process(name: str) -> Find:
    """A process of Ray's own, by its program."""

    def find(job: Job, _: Path) -> Sequence[psutil.Process]:
        found = [(one, one.cmdline()) for one in job.processes()]
        return [one for one, words in found if words and Path(words[0]).name == name]

    return find


def recorded(run_dir: Path) -> int:
    """Return the last step that is recorded; -1: none."""
    path = run_dir / "metrics.jsonl"
    rows = metrics(run_dir) if path.exists() else []
    return max((row["step"] for row in rows if "time/step_s" in row), default=-1)


def after_step(run_dir: Path, step: int) -> bool:
    """Whether a step is recorded."""
    return recorded(run_dir) >= step


def while_saving(run_dir: Path, step: int) -> bool:
    """Whether a checkpoint is being written once a step is recorded."""
    return any((run_dir / "checkpoints").glob("tmp-*/*")) and after_step(run_dir, step)


@dataclass(frozen=True)
class Fault:
    """What is done to whom, and when."""

    name: str
    who: str
    """As the list `losses` of run.json, or the line about a replacement, names it."""
    find: Find
    number: int = signal.SIGKILL
    """The signal; 0: it ends by itself (`mortal`), and is only watched."""
    is_replaced: bool = False
    """Whether the run goes on meanwhile; else it starts again from its newest checkpoint."""
    is_told: bool = True
    """Whether anybody outside the actor hears of it."""
    when: When = after_step


@dataclass(frozen=True)
class Scene:
    """A run and what strikes it."""

    name: str
    faults: tuple[Fault, ...]
    overrides: tuple[str, ...] = ()
    deaths: Deaths = field(default_factory=dict)

    def job(self, run_dir: Path, *overrides: str) -> StruckJob:
        """Return its run."""
        budget = ("recovery.restarts=9", "recovery.rollout_restarts=9")
        return StruckJob.of(run_dir, *budget, *overrides, *self.overrides, deaths=self.deaths)


def kill(name: str, *, is_replaced: bool = False) -> Fault:
    """SIGKILL of an actor."""
    return Fault(f"SIGKILL of {name}", name, actors(name), is_replaced=is_replaced)


def stop(name: str, *, is_replaced: bool = False) -> Fault:
    """SIGSTOP of an actor."""
    return Fault(f"SIGSTOP of {name}", name, actors(name), signal.SIGSTOP, is_replaced=is_replaced)


def ends(name: str, when: str, *, is_replaced: bool = False) -> Fault:
    """The end of an actor in a chosen call."""
    return Fault(f"SIGKILL of {name} {when}", name, actors(name), 0, is_replaced=is_replaced)


REWARD_WORKER = "from multiprocessing.spawn import spawn_main"
SCENES = (
    Scene(
        "engines",
        (
            ends("rollout-0", "generating", is_replaced=True),
            ends("rollout-0", "in a sync", is_replaced=True),
            Fault(
                "SIGKILL of an engine's core",
                "rollout-0",
                below("rollout-0", "EngineCore"),
                is_replaced=True,
            ),
        ),
        # In the second step; its replacement after the one that it comes back in. An engine gets 4
        # prompts of the canary, 16 of the evaluation twice, and 8 a step.
        deaths={"rollout-0": [("generate", 4 + 32 + 8 + 3), ("receive_weights", 2)]},
    ),
    Scene(
        "all engines",
        (
            Fault(
                "SIGKILL of both rollout actors at once",
                "rollout-0",
                actors("rollout-0", "rollout-1"),
                is_replaced=True,
            ),
        ),
        ("rollout.num_actors=2", "placement.rollout.cpus=0.5"),
    ),
    Scene(
        "rewards",
        (
            kill("reward", is_replaced=True),
            Fault(
                "SIGKILL of a reward worker",
                "reward",
                below("reward", REWARD_WORKER),
                is_replaced=True,
                is_told=False,
            ),
        ),
    ),
    Scene(
        "trainers",
        (
            ends("meta-controller", "between update and push"),
            kill("learner-shadow-0"),
            kill("meta-controller"),
        ),
        deaths={"meta-controller": [("push_w", 3)]},
    ),
    Scene(
        "driver and Ray",
        (
            Fault("SIGKILL of driver, saving", "driver", driver, when=while_saving),
            Fault("SIGKILL of gcs_server", "ray", ray_process("gcs_server")),
        ),
    ),
    Scene(
        "one of each",
        (
            kill("learner-joint-0"),
            Fault("SIGKILL of driver", "driver", driver),
            Fault("SIGKILL of raylet", "ray", ray_process("raylet")),
        ),
    ),
    Scene(
        "snapshots",
        (Fault("SIGKILL of driver, with snapshots", "driver", driver),),
        ("recovery.snapshot_every=1", "checkpoint.every=0"),
    ),
    Scene(
        "stopped",
        (
            stop("rollout-0", is_replaced=True),
            stop("reward", is_replaced=True),
            stop("learner-joint-0"),
            stop("meta-controller"),
        ),
    ),
)
