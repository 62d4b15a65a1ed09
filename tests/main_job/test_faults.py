"""Ctrl-C, once and twice: nothing hangs, and no process of ours is left.

Lost actors: an engine in test_overlap, a learner in test_colocated, the driver in test_resume.
"""

import signal
import time
from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train, wait_for_step


@pytest.mark.prove  # As below, but in a step; a job is stopped in a step in test_submission.
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


@pytest.mark.prove  # A job is stopped at its start in test_submission.
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


def test_ctrl_c_breaks_off_generation_at_the_last_boundary(tmp_path: Path) -> None:
    # Evaluations that take far longer than a step, so that the signal comes during one.
    slow = ("evaluation.every=2", "evaluation.num_items=256", "evaluation.num_samples=8")
    job = train(tmp_path / "run", "run.num_steps=200", "checkpoint.every=0", *slow).start()
    wait_for_step(tmp_path / "run", 1)
    assert job.process is not None
    job.process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    done = job.finish(60)
    assert done.returncode == 130, done.stderr[-2000:]
    assert time.monotonic() - asked < 20
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-000002"]
    assert "interrupted" in done.stderr
    assert job.left_over() == []
    evaluated = [row["step"] for row in metrics(tmp_path / "run") if "eval/sums/pass@1" in row]
    assert evaluated == [0]


def test_second_ctrl_c_stops_without_a_checkpoint(tmp_path: Path) -> None:
    job = train(tmp_path / "run", "run.num_steps=200", "checkpoint.every=0").start()
    wait_for_step(tmp_path / "run", 1)
    assert job.process is not None
    for process in job.processes():  # the learners, busy for ever: the first request must wait
        if "LearnerActor" in " ".join(process.cmdline()):
            process.suspend()
    job.process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    done = job.finish(60)
    assert done.returncode == 130, done.stderr[-2000:]
    assert "stopped at once" in done.stderr
    assert list((tmp_path / "run/checkpoints").glob("step-*")) == []
    assert job.left_over() == []
