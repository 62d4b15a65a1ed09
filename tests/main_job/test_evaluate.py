"""`coop-rl evaluate` on a real run and a model: the same figures as in training, and files."""

import json
from pathlib import Path
from typing import Any

import pytest

from coop_rl.evaluation.result import EvaluationResult
from tests.main_job.harness import DEMO, ROOT, Job

MODEL = ROOT / "configs/local/demo/model"


def evaluate(whole_run: Path, out: Path, *models: Path) -> tuple[str, list[dict[str, Any]]]:
    """Measure models as `whole_run` did; return what was printed and the summary of each."""
    job = Job(
        [
            *("evaluate", *map(str, models), "--config", str(DEMO), "--out", str(out)),
            *("--num-items", "16", "--num-samples", "2"),
        ]
    ).start()
    done = job.finish()
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.left_over() == []
    summary = json.loads((out / "summary.json").read_text())["models"]
    for model in summary:
        found = EvaluationResult.read(out / model["name"] / "sums.json")
        during = whole_run / f"evaluations/step-{model['step']:06d}/sums.json"
        assert_same_figures(found, EvaluationResult.read(during))
        rows = (out / model["name"] / "sums.responses.jsonl").read_text().splitlines()
        assert len(rows) == 16 * 3
    return done.stdout, summary


def assert_same_figures(found: EvaluationResult, during: EvaluationResult) -> None:
    for field in ("step", "ids", "greedy_correct", "num_correct"):
        assert getattr(found, field) == getattr(during, field), field


def test_a_run_has_the_figures_of_its_training(whole_run: Path, tmp_path: Path) -> None:
    printed, (model,) = evaluate(whole_run, tmp_path / "out", whole_run)
    assert (model["name"], model["step"]) == (f"{whole_run.name}-step-000008", 8)
    for expected in ("whole-step-000008", "pass@1", "maj@2", "tokens/s"):
        assert expected in printed


@pytest.mark.prove  # one engine after the other; differences: tests/evaluation
def test_a_model_and_the_run_that_trained_it(whole_run: Path, tmp_path: Path) -> None:
    printed, (first, second) = evaluate(whole_run, tmp_path / "out", MODEL, whole_run)
    assert (first["name"], first["step"], second["step"]) == ("model", 0, 8)
    assert "difference (paired)" in printed
    assert set(second["differences"]["sums"]) == {"pass@1", "avg@2", "pass@2", "maj@2"}
