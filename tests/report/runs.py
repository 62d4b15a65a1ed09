"""Run folders as `coop-rl train` leaves them, with figures that are known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coop_rl.config import load_config
from coop_rl.evaluation.result import EvaluationResult

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"
SETS = ("evaluation.num_demonstrations=32",)


def write_run(
    folder: Path,
    *,
    seed: int = 0,
    num_steps: int = 20,
    right: Mapping[int, Sequence[bool]] | None = None,
    overrides: Sequence[str] = (),
    cost: float = 1.0,
    reward: float = 0.5,
) -> Path:
    """Write a run whose steps cost `cost` seconds and 10 tokens each; `right` by steps trained."""
    folder.mkdir(parents=True)
    config = load_config(
        DEMO, [*SETS, f"run.seed={seed}", f"run.num_steps={num_steps}", *overrides]
    )
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "run.json").write_text(json.dumps({"status": "finished", "seed": seed}))
    for step, correct in (right or {}).items():
        _evaluation(folder / f"evaluations/step-{step:06d}", step, correct)
    rows = [step_row(step, cost=cost, reward=reward) for step in range(num_steps)]
    rows += [
        {"step": step, "eval/demonstrations/nll": 0.3 - 0.01 * i, "eval/sums/pass@1": 0.5}
        for i, step in enumerate(right or {})
    ]
    lines(folder / "metrics.jsonl", rows)
    lines(folder / "samples.jsonl", [sample(step, "1+1=2") for step in range(num_steps)])
    return folder


def step_row(step: int, *, cost: float = 1.0, reward: float = 0.5) -> dict[str, Any]:
    return {
        "step": step,
        "grad/norm": 1.0,
        "reward/mean": reward,
        "reward/accuracy": reward,
        "guidance/weight/good": 0.9,
        "guidance/weight/bad": 0.1,
        "gain/pooled": 0.01,
        "gain/pooled_stderr": 0.004,
        "gain/pooled_steps": 3,
        "time/generate_s": 0.5,
        "time/step_s": cost,
        "ledger/tokens_generated": 6 * (step + 1),
        "ledger/tokens_rl": 4 * (step + 1),
        "time/device_s/rollout": cost * (step + 1),
    }


def sample(step: int, response: str, **others: Any) -> dict[str, Any]:
    row = {"step": step, "prompt_id": "0", "prompt": "1+1=?", "response": response, "answer": "2"}
    return row | {"reward": 1.0, "is_correct": True, "status": "scored", "num_tokens": 5} | others


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _evaluation(folder: Path, step: int, correct: Sequence[bool]) -> None:
    ids = tuple(str(i) for i in range(len(correct)))
    result = EvaluationResult(
        name="sums", step=step, ids=ids, greedy_correct=tuple(correct),
        num_correct=tuple(2 * int(c) for c in correct), majority_correct=tuple(correct),
        num_samples=2, pass_ks=(2,), truncated=0.0, format=1.0, unscored=0.0, length_mean=5.0,
        num_tokens=100, seconds=1.0,
    )  # fmt: skip
    folder.mkdir(parents=True)
    result.write(folder / "sums.json")
    lines(
        folder / "sums.responses.jsonl",
        [
            {"prompt_id": i, "prompt": f"{i}+0=?", "kind": "greedy", "text": f"#{i}", "gold": i}
            | {"is_correct": c, "status": "scored"}
            for i, c in zip(ids, correct, strict=True)
        ],
    )
