"""A run that is struck: its output in files that are read meanwhile, its leavings told apart."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.main_job.harness import ROOT, STARTED, TAG, Job, train

LIMIT_S = 400
SHARED_MEMORY = Path("/dev/shm")
Deaths = dict[str, list[tuple[str, int]]]
"""Actor -> for each of its lives, the method in whose n-th call it ends, and n."""


def wait(is_so: Callable[[], bool], job: Job | None = None) -> float:
    """Wait for something; returns when it was so. A `job` that ends meanwhile fails."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it took too long"
        ended = job is not None and job.process is not None and job.process.poll() is not None
        assert not ended or is_so(), "the run has ended meanwhile"
        time.sleep(0.05)
    return time.monotonic()


@dataclass
class StruckJob(Job):
    """A job with a temporary folder of its own."""

    deaths: Deaths = field(default_factory=dict)
    """Of actors that end by themselves (`mortal`)."""
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cx", dir="/tmp")))

    @classmethod
    def of(cls, run_dir: Path, *overrides: str, deaths: Deaths | None = None) -> "StruckJob":
        """Return a small run."""
        return cls(train(run_dir, *overrides).arguments, deaths=deaths or {})

    def start(self, terminal: int | None = None) -> "StruckJob":
        """Start, with output in files."""
        assert terminal is None
        STARTED.append(self)
        self._shared_before = set(SHARED_MEMORY.iterdir())
        (self.folder / "t").mkdir()
        mine = {"TMPDIR": str(self.folder / "t"), TAG: self.tag, "PYTHONUNBUFFERED": "1"}
        what = ["tests.chaos.mortal", json.dumps(self.deaths)] if self.deaths else ["coop_rl"]
        with self.output.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *what, *self.arguments],
                cwd=ROOT,
                env={**os.environ, **self.environment, **mine},
                stdout=out,
                stderr=err,
                text=True,
            )
        return self

    @property
    def output(self) -> Path:
        """What it prints."""
        return self.folder / "out"

    @property
    def errors(self) -> Path:
        """What it says went wrong."""
        return self.folder / "err"

    def count(self, text: str) -> int:
        """Return how often it has printed a text, whatever the lines' breaks."""
        return " ".join(self.output.read_text().split()).count(text)

    def finish(self, timeout_s: float = LIMIT_S) -> "subprocess.CompletedProcess[str]":
        """Wait for the end."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        out, err = self.output.read_text(), self.errors.read_text()
        return subprocess.CompletedProcess(self.arguments, code, out, err)

    def leavings(self) -> list[str]:
        """Return processes, shared memory that nobody holds, and sockets that are left.

        Ray's own sockets lie in its session's folder, which it keeps, with its logs.
        """
        left = self.left_over()
        left += sorted(map(str, set(SHARED_MEMORY.iterdir()) - self._shared_before - held()))
        left += [str(path) for path in (self.folder / "t").iterdir() if path.is_socket()]
        shutil.rmtree(self.folder / "t")
        return left


def held() -> set[Path]:
    """Return the shared memory that living processes use, other runs' that is."""
    found: set[Path] = set()
    for process in psutil.process_iter():
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:
            continue
        found |= {
            Path(line.split()[5]) for line in maps.splitlines() if f" {SHARED_MEMORY}/" in line
        }
    return found
