"""On the real stack: an evaluation beside training, and bins that the base model's tries make."""

import json
from pathlib import Path

import pytest

from coop_rl.evaluation.result import EvaluationResult
from tests.main_job.harness import ROOT, metrics, train

STEPS = 6
NUM_SHOWN = 128
EVALUATIONS = (
    f"run.num_steps={STEPS}",
    "evaluation.every=3",
    "evaluation.num_items=128",
    "placement.rollout={cpus: 0.5}",
)


def rows(run_dir: Path) -> list[dict]:
    """Return all rows without what the clock measured, and the devices' seconds."""
    return [
        {
            k: v
            for k, v in row.items()
            if not k.startswith(("time/", "perf/")) and k != "sync/seconds"
        }
        for row in metrics(run_dir)
    ]


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_figures_beside_training_are_those_of_a_blocking_evaluation(tmp_path: Path) -> None:
    blocking, beside = tmp_path / "blocking", tmp_path / "beside"
    for folder, more in ((blocking, ()), (beside, ("evaluation.num_rollout_actors=1",))):
        done = train(folder, *EVALUATIONS, *more).start().finish(timeout_s=400)
        assert done.returncode == 0, done.stderr[-2000:]
    for step in (0, 3, 6):
        name = f"evaluations/step-{step:06d}/sums.json"
        ours, theirs = (EvaluationResult.read(run / name) for run in (beside, blocking))
        assert ours.ids == theirs.ids
        assert ours.greedy_correct == theirs.greedy_correct
        assert ours.num_correct == theirs.num_correct
    evaluated = [row for row in rows(beside) if "eval/sums/pass@1" in row]
    assert [(row["step"], row["version"]) for row in evaluated] == [(0, 0), (3, 3), (6, 6)]
    assert [{k: v for k, v in row.items() if k != "version"} for row in evaluated] == [
        row for row in rows(blocking) if "eval/sums/pass@1" in row
    ]
    # Training took the same steps, and did not wait for the base model's figures.
    assert [row for row in rows(beside) if "grad/norm" in row] == [
        row for row in rows(blocking) if "grad/norm" in row
    ]
    assert "grad/norm" in rows(beside)[0]


@pytest.mark.prove
@pytest.mark.timeout(400)
def test_bins_by_difficulty_are_weighed(tmp_path: Path) -> None:
    run_dir, few = tmp_path / "run", tmp_path / "few.jsonl"
    whole = (ROOT / "configs/local/demo/demonstrations.jsonl").read_text().splitlines()
    few.write_text("\n".join(whole[:NUM_SHOWN]) + "\n")
    job = train(
        run_dir,
        f"demonstrations.path={few}",
        "run.num_steps=10",
        "meta.guidance=[demonstrations]",
        "demonstrations.split_by=difficulty",
        "demonstrations.bins=2",
    )
    done = job.start().finish(timeout_s=380)
    assert done.returncode == 0, done.stderr[-2000:]
    values = json.loads((run_dir / "difficulty.json").read_text())["difficulty"]
    assert len(values) == NUM_SHOWN
    assert 0 <= min(values) < max(values) <= 1
    assert f"tries the prompts of {NUM_SHOWN} demonstrations, 4 x each" in done.stdout
    last = [row for row in metrics(run_dir) if "grad/norm" in row][-1]
    weights = [last[f"guidance/weight/difficulty-{number}"] for number in (1, 2)]
    assert sum(weights) == pytest.approx(1)
    assert weights[0] != weights[1]
