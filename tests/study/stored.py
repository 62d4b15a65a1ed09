"""Grids and finished runs of them, written without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from coop_rl.evaluation.result import EvaluationResult
from coop_rl.study.planned import PlannedRun
from tests.report.runs import DEMO, lines, step_row

GRID: dict[str, Any] = {
    "question": "Does it help?",
    "base": str(DEMO),
    "set": {"run.num_steps": 20, "evaluation.num_samples": 2},
    "arms": {"bridge": {}, "rl": {"method.kind": "rl"}},
    "seeds": [0, 1, 2],
    "contrasts": [{"arm": "bridge", "reference": "rl"}],
    "primary": "avg@2",
}


def write_grid(folder: Path, **changes: Any) -> Path:
    """Write the grid with some keys changed; None takes one away."""
    values = {name: value for name, value in (GRID | changes).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def finish(
    run: PlannedRun,
    right: Mapping[int, Sequence[int]],
    *,
    reward: float = 0.5,
    cost: float = 1.0,
    gain: float = 0.01,
    status: str = "finished",
) -> None:
    """Write a run as it ends; `right` has how many of 2 samples are right, by steps trained."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").write_text(run.config.model_dump_json())
    ended = {"started_at": "2026-11-28T10:00:00+00:00", "ended_at": "2026-11-28T10:03:00+00:00"}
    about = {"status": status, "error": None, "num_resumes": 0, "git_commit": "abc", **ended}
    (run.folder / "run.json").write_text(json.dumps(about))
    for step, correct in right.items():
        _evaluation(run.folder / f"evaluations/step-{step:06d}", step, correct)
    rows = [
        step_row(step, cost=cost, reward=reward) | {"gain/pooled": gain}
        for step in range(run.config.run.num_steps)
    ]
    lines(run.folder / "metrics.jsonl", rows)


def _evaluation(folder: Path, step: int, correct: Sequence[int]) -> None:
    greedy = tuple(count == 2 for count in correct)
    result = EvaluationResult(
        name="sums", step=step, ids=tuple(map(str, range(len(correct)))), greedy_correct=greedy,
        num_correct=tuple(correct), majority_correct=greedy, num_samples=2, pass_ks=(2,),
        truncated=0.0, format=1.0, unscored=0.0, length_mean=5.0, num_tokens=100, seconds=1.0,
    )  # fmt: skip
    folder.mkdir(parents=True)
    result.write(folder / "sums.json")
