"""The demo learns, RL alone learns, shuffled rewards teach nothing: `make prove`, 18 minutes."""

import json
from pathlib import Path
from statistics import median

import pytest

from tests.main_job.harness import metrics, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def rises(run_dir: Path, *overrides: str) -> tuple[float, float]:
    """Run the whole demo; return what pass@1 and avg@4 rose by."""
    job = train(run_dir, *overrides, small=False).start()
    done = job.finish(900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.left_over() == []
    before, after = [row for row in metrics(run_dir) if "eval/sums/pass@1" in row]
    values = json.loads((run_dir / "config.json").read_text())
    assert after["step"] == values["run"]["num_steps"]
    return tuple(
        after[f"eval/sums/{name}"] - before[f"eval/sums/{name}"] for name in ("pass@1", "avg@4")
    )


def test_bridge_raises_both_accuracies_by_fifteen_points(tmp_path: Path) -> None:
    both = [rises(tmp_path / str(seed), f"run.seed={seed}") for seed in (0, 1, 2)]
    assert median(greedy for greedy, _ in both) >= 0.15
    assert median(sampled for _, sampled in both) >= 0.15
    for seed in (0, 1, 2):
        rows = [row for row in metrics(tmp_path / str(seed)) if "guidance/skipped" in row]
        assert sum(row["guidance/skipped"] == 0 for row in rows) >= 0.9 * len(rows)


def test_rl_alone_learns_and_from_shuffled_rewards_does_not(tmp_path: Path) -> None:
    _, learned = rises(tmp_path / "rl", "method.kind=rl")
    assert learned >= 0.05
    _, control = rises(tmp_path / "shuffled", "method.kind=rl", "reward.shuffle=true")
    assert control <= 0.0
