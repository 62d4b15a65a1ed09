"""Engines that rest while learners train take the same steps as those that never do."""

from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train

FIELDS = ("reward/mean", "loss/rl", "loss/sft", "loss/shadow_rl", "grad/norm")


@pytest.mark.timeout(600)
def test_turns_change_nothing(tmp_path: Path, whole_run: Path) -> None:
    done = train(tmp_path / "run", "run.num_steps=3", "placement.colocated=true").start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    turns, plain = (
        {row["step"]: row for row in metrics(folder) if "reward/mean" in row}
        for folder in (tmp_path / "run", whole_run)
    )
    for step in range(3):
        assert turns[step]["time/sleep_s"] > 0
        for field in FIELDS:
            assert turns[step][field] == plain[step][field], (step, field)
