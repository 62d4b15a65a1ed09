"""A whole small study on the real stack: two arms, two seeds, two steps."""

import json
from pathlib import Path

import pytest

from tests.main_job.harness import Job
from tests.study.stored import write_grid


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_a_grid_is_run_and_not_run_again(tmp_path: Path) -> None:
    small = {
        "run.num_steps": 2,
        "evaluation": {"num_items": 16, "num_samples": 2},
        "prompts.per_step": 8,
        "demonstrations.per_step": 8,
        "rollout.samples_per_prompt": 4,
    }
    grid = write_grid(tmp_path, set=small, seeds=[0, 1])
    folder, export = tmp_path / "runs", tmp_path / "export"
    command = ["study", str(grid), "--study-dir", str(folder)]
    done = Job([*command, "--num-parallel", "2", "--export", str(export)]).start().finish(800)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("bridge/0", "rl/0", "bridge/1", "rl/1"):
        assert json.loads((folder / name / "run.json").read_text())["status"] == "finished"
        assert f"{name}: " in done.stdout
    found = json.loads((folder / "tables.json").read_text())["findings"]
    assert found["num_seeds"] == 2
    assert {c["num_seeds"] for c in found["contrasts"] if c["axis"] == "steps"} == {2}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    again = Job(command)
    second = again.start().finish(120)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "4 done, 0 to run" in second.stdout
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    assert not again.left_over()
    third = Job(["study", str(grid), "--from", str(export), "--json"]).start().finish(60)
    assert json.loads(third.stdout) == found
