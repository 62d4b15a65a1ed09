"""The table that `make chaos` ends with, and the run that nothing disturbs."""

from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from tests.main_job.conftest import _no_job_outlives_its_test  # noqa: F401 - a fixture
from tests.main_job.harness import train

NUM_STEPS = 6
OVERRIDES = (
    f"run.num_steps={NUM_STEPS}", "checkpoint.every=2", "observability.samples_per_step=32",
)  # fmt: skip
"""Beside those of a small run; 32 are all samples of a step."""


@dataclass(frozen=True)
class Outcome:
    """A row of the table."""

    fault: str
    detected_s: str
    recovered_s: str
    num_lost: int
    num_twice: int
    num_repeated: int
    num_left: int


HEADER = (
    "fault", "detected in", "recovered in", "prompts lost", "prompts trained twice",
    "steps repeated", "left behind",
)  # fmt: skip
OUTCOMES: list[Outcome] = []


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that all others must equal."""
    run_dir = tmp_path_factory.mktemp("chaos") / "undisturbed"
    done = train(run_dir, *OVERRIDES).start().finish(400)
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table in Markdown."""
    if OUTCOMES:
        lines = [HEADER, ["---"] * len(HEADER), *map(astuple, OUTCOMES)]
        for line in lines:
            terminalreporter.write_line(f"| {' | '.join(map(str, line))} |")
