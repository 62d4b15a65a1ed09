"""The uninterrupted run that several tests look at."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.main_job.harness import STARTED, Job, train

WHOLE_STEPS = 8
EVALUATE_EVERY = 4
PROFILED = (2, 3)


@dataclass(frozen=True)
class WholeRun:
    """The demo, small, `WHOLE_STEPS` steps, one rank, ZeRO-2, two of its steps profiled."""

    run_dir: Path
    job: Job
    done: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    job = train(
        run_dir,
        f"run.num_steps={WHOLE_STEPS}",
        f"evaluation.every={EVALUATE_EVERY}",
        "checkpoint.every=4",
    )
    job.arguments += ["--profile", *map(str, PROFILED)]
    done = job.start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    return WholeRun(run_dir, job, done)


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture
def whole_run(whole: WholeRun) -> Path:
    """Its run directory."""
    return whole.run_dir
