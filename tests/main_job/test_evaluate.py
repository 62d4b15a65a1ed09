"""`coop-rl evaluate` on a real run and a model: the same figures as in training, and files."""

import json
from pathlib import Path

from coop_rl.evaluation.result import EvaluationResult
from tests.main_job.harness import DEMO, ROOT, Job

MODEL = ROOT / "configs/local/demo/model"


def test_a_model_and_the_run_that_trained_it(whole_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = Job(
        [
            *("evaluate", str(MODEL), str(whole_run), "--config", str(DEMO), "--out", str(out)),
            *("--num-items", "16", "--num-samples", "2"),
        ]
    ).start()
    done = job.finish()
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.left_over() == []
    for expected in ("whole-step-000008", "pass@1", "maj@2", "difference (paired)", "tokens/s"):
        assert expected in done.stdout

    trained = f"{whole_run.name}-step-000008"
    for name, step in (("model", 0), (trained, 8)):
        found = EvaluationResult.read(out / name / "sums.json")
        during = EvaluationResult.read(whole_run / f"evaluations/step-{step:06d}/sums.json")
        assert found.step == step
        assert found.ids == during.ids
        assert found.greedy_correct == during.greedy_correct
        assert found.num_correct == during.num_correct
        rows = (out / name / "sums.responses.jsonl").read_text().splitlines()
        assert len(rows) == 16 * 3
    summary = json.loads((out / "summary.json").read_text())
    first, second = summary["models"]
    assert (first["step"], second["step"]) == (0, 8)
    assert set(second["differences"]["sums"]) == {"pass@1", "avg@2", "pass@2", "maj@2"}
