"""One uninterrupted run that several tests compare with."""

from pathlib import Path

import pytest

from tests.main_job.harness import train

WHOLE_STEPS = 8


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of the demo, small, `WHOLE_STEPS` steps, one rank, ZeRO-2."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    done = train(run_dir, f"run.num_steps={WHOLE_STEPS}").start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir
