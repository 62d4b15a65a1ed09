"""Ctrl-C: nothing hangs, and no process of ours is left.

During an evaluation: test_submission; twice: test_ranks. Lost actors: an engine in test_overlap, a
learner in test_nodes, the driver in test_resume; all that a run survives: tests/chaos.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.main_job.harness import train, wait_for_step


@pytest.mark.prove  # Stopped in an evaluation in test_submission, in a step for good in test_ranks.
def test_ctrl_c_saves_a_checkpoint_and_leaves_nothing(tmp_path: Path) -> None:
    job = train(tmp_path / "run", "run.num_steps=200", "checkpoint.every=0").start()
    wait_for_step(tmp_path / "run", 1)
    assert job.process is not None
    job.process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    done = job.finish(60)
    assert done.returncode == 130, done.stderr[-2000:]
    assert time.monotonic() - asked < 20
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 1
    assert "interrupted" in done.stderr
    assert job.left_over() == []


@pytest.mark.prove  # What StopRequest does is in tests/driver; here, that Ray's processes go on.
def test_a_lost_terminal_saves_a_checkpoint_and_leaves_nothing(tmp_path: Path) -> None:
    ours, terminal = os.openpty()
    job = train(tmp_path / "run", "run.num_steps=200", "checkpoint.every=0").start(terminal)
    os.close(terminal)
    wait_for_step(tmp_path / "run", 1, process=job.process)
    os.close(ours)
    assert job.finish(60).returncode == 130
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 1
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert job.left_over() == []


@pytest.mark.prove  # Waits at the start that are ended: tests/distributed.
def test_ctrl_c_breaks_off_the_start(tmp_path: Path) -> None:
    job = train(tmp_path / "run").start()
    assert job.process is not None
    assert job.process.stdout is not None
    while "starting actors" not in (line := job.process.stdout.readline()):
        assert line, job.finish(60).stderr
    job.process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    done = job.finish(60)
    assert done.returncode == 130, done.stderr[-2000:]
    assert time.monotonic() - asked < 20
    assert "nothing was trained yet" in done.stderr
    assert list((tmp_path / "run").glob("checkpoints/*")) == []
    assert job.left_over() == []
