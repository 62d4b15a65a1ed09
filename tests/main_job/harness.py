"""Running `coop-rl` as a user does, and finding every process it started."""

import fcntl
import json
import os
import subprocess
import sys
import termios
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/local/demo.yaml"
TAG = "COOP_RL_TEST_TAG"
NOBODY = "127.0.0.1:9"
SMALL = (
    "prompts.per_step=8",
    "rollout.samples_per_prompt=4",
    "demonstrations.per_step=8",
    "evaluation.num_items=16",
    "evaluation.num_samples=2",
)
"""Overrides that make the demo a matter of seconds per step."""


STARTED: list["Job"] = []
"""Jobs of the present test; one that fails must not leave its own to run beside the next."""


@dataclass
class Job:
    """One `coop-rl` process and whatever it starts; `tag` travels in the environment."""

    arguments: list[str]
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: "subprocess.Popen[str] | None" = None
    prefix: list[str] = field(default_factory=list)
    """What runs the command elsewhere."""
    environment: dict[str, str] = field(default_factory=lambda: {"RAY_ADDRESS": NOBODY})
    """Variables beside this process's; the config says which Ray a run joins, not this one."""

    def start(self, terminal: int | None = None) -> "Job":
        """Start in the background, in a terminal of its own if one is given."""
        STARTED.append(self)

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "coop_rl", *self.arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, TAG: self.tag},
            stdin=terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
            preexec_fn=None if terminal is None else own_terminal,
        )
        return self

    def finish(self, timeout_s: float = 240) -> "subprocess.CompletedProcess[str]":
        """Wait for the end."""
        assert self.process is not None
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return subprocess.CompletedProcess(self.arguments, self.process.returncode, out, err)

    def kill(self) -> None:
        """Kill it, and whatever it started."""
        for process in self.processes():
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that carry this job's tag."""
        return tagged(self.tag)

    def process_of(self, title: str) -> psutil.Process:
        """Return a process that has `title` in its command line, such as an actor's class."""
        titles = {" ".join(process.cmdline()): process for process in self.processes()}
        for line, process in titles.items():
            if title in line:
                return process
        raise LookupError(f"{title} not among {sorted(titles)}")

    def left_over(self, within_s: float = 15) -> list[str]:
        """Return what is still alive after a moment of grace; empty is good."""
        deadline = time.monotonic() + within_s
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return [" ".join(p.cmdline())[:120] for p in alive if p.is_running()]


def tagged(tag: str) -> list[psutil.Process]:
    """Return the living processes that carry a tag in their environment."""

    def is_ours(process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.environ().get(TAG) == tag
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    return [process for process in psutil.process_iter() if is_ours(process)]


def train(run_dir: Path, *overrides: str, small: bool = True) -> Job:
    """Return a training job on the demo's config."""
    sets = [f"--set={override}" for override in ((*SMALL, *overrides) if small else overrides)]
    return Job(["train", str(DEMO), "--run-dir", str(run_dir), *sets])


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def wait_for_step(
    run_dir: Path,
    step: int,
    timeout_s: float = 200,
    process: "subprocess.Popen[str] | None" = None,
) -> None:
    """Wait until a step has been recorded, or `process` is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if (run_dir / "metrics.jsonl").exists() and any(
            row.get("step", -1) >= step for row in metrics(run_dir)
        ):
            return
        time.sleep(0.3)
    raise TimeoutError(f"step {step} was not reached within {timeout_s} s")
