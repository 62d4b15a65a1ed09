"""The table that `make chaos` ends with, and the runs that nothing disturbs."""

import json
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import pytest

from tests.chaos.struck import StruckJob
from tests.main_job.conftest import _no_job_outlives_its_test  # noqa: F401 - a fixture
from tests.main_job.harness import ROOT

NUM_STEPS = 12
OVERRIDES = ("checkpoint.every=2", "observability.samples_per_step=32")
"""Beside those of a small run; 32 are all samples of a step."""
TABLE = ROOT / "runs/chaos"
"""Where the table is written, as .md and .json."""


@dataclass
class Outcome:
    """A row of the table; figures that are missing were not reached."""

    fault: str
    detected_in: str = "?"
    recovered_in: str = "?"
    prompts_lost: int | str = "?"
    prompts_trained_twice: int | str = "?"
    steps_repeated: int | str = "?"
    left_behind: int | str = "?"


HEADER = [name.replace("_", " ") for name in asdict(Outcome(""))]
OUTCOMES: list[Outcome] = []


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The run directory of so many steps that all others must equal."""
    found: dict[int, Path] = {}

    def run(num_steps: int) -> Path:
        if num_steps not in found:
            run_dir = tmp_path_factory.mktemp("chaos") / f"undisturbed-{num_steps}"
            job = StruckJob.of(run_dir, f"run.num_steps={num_steps}", *OVERRIDES).start()
            done = job.finish(900)
            assert done.returncode == 0, done.stderr[-2000:]
            found[num_steps] = run_dir
        return found[num_steps]

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table in Markdown, and keep it."""
    if OUTCOMES:
        rows = [HEADER, ["---"] * len(HEADER), *map(astuple, OUTCOMES)]
        lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
        for line in lines:
            terminalreporter.write_line(line)
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.with_suffix(".md").write_text("\n".join(lines) + "\n")
        TABLE.with_suffix(".json").write_text(json.dumps([*map(asdict, OUTCOMES)], indent=2))
