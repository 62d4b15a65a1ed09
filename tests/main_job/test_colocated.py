"""Engines that rest while learners train change nothing, nor does a lost reward actor; then a
learner of that run is lost."""

from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train, wait_for_step

FIELDS = ("reward/mean", "loss/rl", "loss/sft", "loss/shadow_rl", "grad/norm")


@pytest.mark.timeout(600)
def test_turns_and_a_lost_judge_change_nothing_and_a_lost_learner_is_named(
    tmp_path: Path, whole_run: Path
) -> None:
    run_dir = tmp_path / "run"
    every_two = ("evaluation.every=2", "checkpoint.every=2")
    job = train(
        run_dir,
        "run.num_steps=200",
        "placement.colocated=true",
        "sync.timeout_s=20",
        "recovery.restarts=0",
        *every_two,
    ).start()
    wait_for_step(run_dir, 0, process=job.process)
    job.process_of("RewardActor").kill()
    wait_for_step(run_dir, 3, process=job.process)
    job.process_of("LearnerActor").kill()
    done = job.finish(90)
    assert done.returncode == 1
    assert "learner-" in done.stderr
    assert "Traceback" not in done.stderr
    assert job.left_over() == []

    turns, plain = (
        {row["step"]: row for row in metrics(folder) if "reward/mean" in row}
        for folder in (run_dir, whole_run)
    )
    for step in range(3):
        assert turns[step]["time/sleep_s"] > 0
        for field in FIELDS:
            assert turns[step][field] == plain[step][field], (step, field)
    evaluated = [row["step"] for row in metrics(run_dir) if "eval/sums/pass@1" in row]
    assert evaluated[:2] == [0, 2]
    assert (run_dir / "checkpoints/step-000002").exists()
    assert sum(row.get("recovered/reward_actors", 0) for row in metrics(run_dir)) == 1
