"""Generation beside training on the real stack: ages, versions, and no prompt lost or had twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.main_job.harness import metrics, train, wait_for_step

NUM_STEPS, LOST_STEP, CHECKPOINT_EVERY = 6, 4, 3
ROLLOUTS_ONLY = (
    f"run.num_steps={NUM_STEPS}",
    f"checkpoint.every={CHECKPOINT_EVERY}",
    "checkpoint.keep=5",
    "evaluation.every=0",
    "observability.samples_per_step=32",
    "method.kind=sum",
)


def steps(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(run_dir) if "grad/norm" in row]


def prompts_by_step(run_dir: Path) -> list[set[str]]:
    rows = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    return [{row["prompt_id"] for row in rows if row["step"] == step} for step in range(NUM_STEPS)]


@pytest.mark.timeout(900)
def test_a_lag_of_one_overlaps_and_resumes_without_losing_or_repeating_a_prompt(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "lag"
    overrides = (*ROLLOUTS_ONLY, "rollout.max_policy_lag=1")
    job = train(run_dir, *overrides).start()
    wait_for_step(run_dir, LOST_STEP)
    assert job.process is not None
    job.process.kill()
    job.process.wait()
    (saved,) = (run_dir / "checkpoints").glob("step-*")
    waiting = json.loads((saved / "progress.json").read_text())["rollouts"]["waiting"]
    assert len(waiting) == 8  # of step 3, sampled while step 2 was trained

    done = train(run_dir, *overrides).start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    rows = steps(run_dir)
    assert [row["step"] for row in rows] == list(range(NUM_STEPS))
    # The first step has nothing older, and the first after a resume samples anew.
    assert [row["policy/lag"] for row in rows] == [0, 1, 1, 0, 1, 1]
    assert [row["policy/lag_mean"] for row in rows] == [0, 1, 1, 0, 1, 1]
    seen = prompts_by_step(run_dir)
    assert all(len(prompts) == 8 for prompts in seen)
    assert len(set.union(*seen)) == 8 * NUM_STEPS


@pytest.mark.timeout(600)
def test_responses_go_on_with_new_weights_where_updates_are_in_flight(tmp_path: Path) -> None:
    run_dir = tmp_path / "in-flight"
    done = (
        train(
            run_dir,
            *ROLLOUTS_ONLY,
            "rollout.max_policy_lag=2",
            "rollout.in_flight_updates=true",
            # More sequences than run at once: some are always on their way.
            "rollout.max_num_seqs=8",
        )
        .start()
        .finish()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = steps(run_dir)
    assert max(row["policy/lag"] for row in rows) in (1, 2)
    versions = [
        json.loads(line)["versions"]
        for line in (run_dir / "samples.jsonl").read_text().splitlines()
    ]
    mixed = [spans for spans in versions if len(spans) > 1]
    assert mixed, "no response outlived an update"
    assert all(spans == sorted(spans) for spans in mixed)
    assert len(set.union(*prompts_by_step(run_dir))) == 8 * NUM_STEPS
    # Every token's log-prob is that of the weights that sampled it: the mismatch stays small.
    assert max(abs(row["policy/mismatch_kl"]) for row in rows) < 0.05
