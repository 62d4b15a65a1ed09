"""Two ranks of each group on another ZeRO stage take the same step as one; two Ctrl-C end it."""

import signal
import time
from pathlib import Path

import pytest

from coop_rl.driver.checkpoint_check import damage
from tests.main_job.harness import Job, metrics, train, wait_for_step

FIELDS = ("loss/rl", "loss/sft", "loss/shadow_rl", "grad/norm", "grad/shadow_norm", "grad/cosine")
TWO_RANKS = (
    "learner.num_ranks=2",
    "learner.zero_stage=3",
    "learner.activation_checkpointing=true",
    "placement.learner.cpus=0.25",
    "placement.shadow.cpus=0.25",
)


def stop_at_once(job: Job) -> None:
    """Press Ctrl-C twice while the learners are busy for ever, so that the first must wait."""
    assert job.process is not None
    for process in job.processes():
        if "LearnerActor" in " ".join(process.cmdline()):
            process.suspend()
    job.process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    done = job.finish(60)
    assert done.returncode == 130, done.stderr[-2000:]
    assert "stopped at once" in done.stderr


@pytest.mark.timeout(600)
def test_two_ranks_train_as_one_and_a_second_ctrl_c_waits_for_nobody(
    tmp_path: Path, whole_run: Path
) -> None:
    run_dir = tmp_path / "run"
    job = train(run_dir, "run.num_steps=200", "checkpoint.every=2", *TWO_RANKS).start()
    wait_for_step(run_dir, 2, process=job.process)
    stop_at_once(job)
    assert job.left_over() == []
    (checkpoint,) = (run_dir / "checkpoints").glob("step-*")
    assert checkpoint.name == "step-000002"
    assert damage(checkpoint) is None
    parts = [path.name for path in checkpoint.iterdir() if path.is_dir()]
    assert sorted(parts) == ["joint", "joint-rank-1", "meta", "shadow", "shadow-rank-1"]
    two, one = (
        [row for row in metrics(folder) if "reward/mean" in row] for folder in (run_dir, whole_run)
    )
    assert two[0]["reward/mean"] == one[0]["reward/mean"]
    for field in FIELDS:
        assert two[0][field] == pytest.approx(one[0][field], rel=1e-5, abs=1e-7), field
    # The second step trains on what the first one published.
    assert two[1]["loss/sft"] == pytest.approx(one[1]["loss/sft"], rel=1e-3)
    assert two[1]["guidance/skipped"] == 0
    logs = {path.stem for path in (run_dir / "logs").iterdir()}
    assert {f"learner-{b}-{r}" for b in ("joint", "shadow") for r in (0, 1)} <= logs
