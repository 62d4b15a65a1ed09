"""The scaffold on the real stack: engines serve theta, then pi(theta, w), then theta again."""

from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train

NUM_STEPS = 10
SETS = (
    f"run.num_steps={NUM_STEPS}",
    "prompts.path=configs/local/demo/demonstrations.jsonl",
    "rollout.samples_per_prompt=4",
    "sync.canary_every=1",
)


@pytest.mark.prove
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "sets",
    [
        ("meta.guidance=[scaffold]", "adapter.lr=5e-3"),
        ("method.kind=lspo", "adapter.lr=5e-3", "method.fit_steps=8", "method.share=0.75"),
    ],
    ids=["guided", "lspo"],
)
def test_failed_prompts_are_tried_again_with_w_and_theta_is_published_alone(
    tmp_path: Path, sets: tuple[str, ...]
) -> None:
    done = train(tmp_path / "run", *SETS, *sets).start().finish(timeout_s=380)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row for row in metrics(tmp_path / "run") if "grad/norm" in row]
    assert len(rows) == NUM_STEPS
    for row in rows:
        assert row.get("scaffold/tried", 0.0) == row["groups/all_wrong"]
        # The canary scores under theta alone: what engines serve between second tries.
        assert row["sync/canary_mean"] < 1e-3
    tried = [row for row in rows if "scaffold/turned" in row]
    assert len(tried) > 3
    assert any(row["scaffold/turned"] > 0 for row in tried)
    # w has moved by then, and theta weighs otherwise what w let it sample.
    assert any(abs(row["policy/mismatch_kl"]) > 1e-3 for row in tried[1:])
    first, last = tried[0], tried[-1]
    assert last["ledger/tokens_generated"] > sum(row["tokens/generated"] for row in rows)
    assert first["tokens/generated_scaffold"] > 0
