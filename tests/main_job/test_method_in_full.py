"""What the method offers beyond its defaults, together, on the real stack."""

import json
from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train


def rows_of(run_dir: Path, *overrides: str) -> list[dict]:
    done = train(run_dir, *overrides).start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    return metrics(run_dir)


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    """Demonstrations of the demo, every second one with a wrong answer."""
    rows = [
        json.loads(line)
        for line in Path("configs/local/demo/demonstrations.jsonl").read_text().splitlines()
    ]
    for index, row in enumerate(rows):
        row["origin"] = ("good", "bad")[index % 2]
        if index % 2:
            row["answer"] = str(int(row["answer"]) + 1)
    path = tmp_path / "two_sources.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.timeout(420)
def test_all_guidance_with_a_shadow_that_samples_for_itself(
    tmp_path: Path, two_sources: Path
) -> None:
    rows = rows_of(
        tmp_path / "run",
        "run.num_steps=6",
        "method.rl.kind=grpo",
        "method.rl.kl.weight=0.01",
        "meta.guidance=[adapter,mix,demonstrations]",
        f"demonstrations.path={two_sources}",
        "demonstrations.source_column=origin",
        "shadow.num_rollout_actors=1",
        "placement.rollout.cpus=0.5",
        "shadow.rollouts=own",
        "gain.audit_every=3",
        "gain.audit_prompts=8",
    )
    steps = [row for row in rows if "grad/norm" in row]
    assert len(steps) == 6
    assert all(row["gain/fresh"] == 1 for row in steps)
    assert all(row["tokens/generated_shadow"] > 0 for row in steps)
    assert all(row["guidance/update_norm"] > 0 for row in steps)
    assert all(row["gain/kl_gap"] is not None for row in steps)
    assert steps[0]["policy/kl_ref"] == pytest.approx(0.0, abs=1e-6)
    assert all(
        {"guidance/product/rl", "guidance/product/good", "guidance/product/bad"} <= row.keys()
        for row in steps[2:]
    )
    for row in steps:
        weights = [row["guidance/weight/good"], row["guidance/weight/bad"]]
        assert sum(weights) == pytest.approx(1.0)
    assert steps[-1]["guidance/mix"] != steps[0]["guidance/mix"] == 0.5
    assert steps[-1]["guidance/weight/good"] != 0.5
    audits = [row for row in rows if "gain/audit" in row]
    assert [row["step"] for row in audits] == [3, 6]
    assert all(-1 <= row["gain/audit"] <= 1 and row["gain/audit_stderr"] >= 0 for row in audits)
    logs = {path.stem for path in (tmp_path / "run/logs").iterdir()}
    assert "rollout-shadow-0" in logs


@pytest.mark.timeout(420)
def test_several_updates_a_batch_and_the_best_checkpoint(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path / "run",
        "run.num_steps=4",
        "method.rl.kind=dapo",
        "method.rl.entropy_weight=0.001",
        "method.rl.max_refills=2",
        "learner.num_minibatches=2",
        "learner.num_epochs=2",
        "learner.lr_schedule=cosine",
        "adapter.lr_schedule=linear",
        "adapter.max_update_norm=0.001",
        "evaluation.every=1",
        "evaluation.num_demonstrations=8",
        "checkpoint.best=eval/demonstrations/nll",
        "checkpoint.keep=1",
    )
    steps = [row for row in rows if "grad/norm" in row]
    assert [row["ledger/updates"] for row in steps] == [4, 8, 12, 16]
    assert all(row["guidance/update_norm"] <= 0.00101 for row in steps)
    assert any(row["groups/dropped"] > 0 for row in steps)
    assert any(row["policy/clip_fraction"] > 0 for row in steps)
    nll = {r["step"]: r["eval/demonstrations/nll"] for r in rows if "eval/sums/pass@1" in r}
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    lowest = min((step for step in nll if step), key=lambda step: nll[step])
    assert best == {"step": lowest, "metric": "eval/demonstrations/nll", "value": nll[lowest]}
    kept = {path.name for path in (tmp_path / "run/checkpoints").glob("step-*")}
    assert kept == {"step-000004", f"step-{lowest:06d}"}
