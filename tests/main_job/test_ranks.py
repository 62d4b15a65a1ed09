"""Two ranks of each group on another ZeRO stage take the same step as one rank."""

from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train

FIELDS = ("loss/rl", "loss/sft", "loss/shadow_rl", "grad/norm", "grad/shadow_norm", "grad/cosine")
TWO_RANKS = (
    "learner.num_ranks=2",
    "learner.zero_stage=3",
    "learner.activation_checkpointing=true",
    "placement.learner.cpus=0.25",
    "placement.shadow.cpus=0.25",
)


@pytest.mark.timeout(600)
def test_two_ranks_train_as_one(tmp_path: Path, whole_run: Path) -> None:
    job = train(tmp_path / "run", "run.num_steps=2", *TWO_RANKS).start()
    done = job.finish()
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.left_over() == []
    two, one = (
        [row for row in metrics(run_dir) if "reward/mean" in row]
        for run_dir in (tmp_path / "run", whole_run)
    )
    assert two[0]["reward/mean"] == one[0]["reward/mean"]
    for field in FIELDS:
        assert two[0][field] == pytest.approx(one[0][field], rel=1e-5, abs=1e-7), field
    # The second step trains on what the first one published.
    assert two[1]["loss/sft"] == pytest.approx(one[1]["loss/sft"], rel=1e-3)
    assert two[1]["guidance/skipped"] == 0
    logs = {path.stem for path in (tmp_path / "run/logs").iterdir()}
    assert {f"learner-{b}-{r}" for b in ("joint", "shadow") for r in (0, 1)} <= logs
