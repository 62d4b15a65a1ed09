"""Generation while learners train, on the real stack: ages, versions, no prompt lost.

The run in `make check` whose weights change within responses is the job of test_submission.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coop_rl.config import load_config
from coop_rl.data.load import load_run_data
from tests.main_job.harness import DEMO, SMALL, metrics, train, wait_for_step

PER_STEP = 8
ALL_SAMPLES = f"observability.samples_per_step={PER_STEP * 4}"
EVALUATED_STEP = 8
IN_FLIGHT = (
    "rollout.max_policy_lag=2",
    "rollout.in_flight_updates=true",
    "rollout.max_num_seqs=8",
    "sync.canary_every=3",
    f"evaluation.every={EVALUATED_STEP}",
    "evaluation.num_items=64",
    "evaluation.num_samples=4",
    ALL_SAMPLES,
)
"""Updates hit some responses in the middle; an evaluation takes far longer than a step."""


def step_rows(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(run_dir) if "reward/mean" in row]


def samples(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]


def trained_prompts(run_dir: Path) -> Counter[str]:
    """How often each prompt was trained, all samples of it as one."""
    seen = Counter(row["prompt_id"] for row in samples(run_dir))
    return Counter({prompt: count // 4 for prompt, count in seen.items()})


def in_order(num_steps: int) -> list[str]:
    """The prompts of the first steps, in the seeded order."""
    config = load_config(DEMO, SMALL)
    prompts = load_run_data(config).prompts
    order = prompts.order(PER_STEP, config.run.seed)
    return [prompts[row].id for step in range(num_steps) for row in order.batch(step)]


def first_prompts(num_steps: int) -> Counter[str]:
    return Counter(in_order(num_steps))


def begun_prompts(run_dir: Path, step: int) -> tuple[Counter[str], Counter[str]]:
    """All prompts that a checkpoint's run had begun, and those of them not trained yet."""
    state = json.loads((run_dir / f"checkpoints/step-{step:06d}/progress.json").read_text())
    window = state["rollouts"]
    order = in_order(-(-window["next"] // PER_STEP))
    slots = [*window["slots"], *(slot for _, slot in window["finished"])]
    left = Counter(order[position] for _, _, position in slots)
    return Counter(order[: window["next"]]), left


def theta(version: str) -> int:
    return int(version.split(".")[0].removeprefix("theta"))


@pytest.mark.prove  # the rules of windows and slots are in tests/driver and tests/whole_loop
@pytest.mark.timeout(900)
def test_a_run_with_a_lag_that_lost_its_engine_skips_and_repeats_no_prompt(tmp_path: Path) -> None:
    """Bridge, lag 1, weights changed between groups; the engine dies with groups under way.

    Once another takes its place and the run goes on; the second loss is one too many.
    """
    num_steps = 7
    overrides = (
        f"run.num_steps={num_steps}",
        "checkpoint.every=3",
        "rollout.max_policy_lag=1",
        "sync.timeout_s=20",
        "recovery.restarts=0",
        "recovery.rollout_restarts=1",
        ALL_SAMPLES,
    )
    job = train(tmp_path / "run", *overrides).start()
    wait_for_step(tmp_path / "run", 1, process=job.process)
    job.process_of("EngineCore").kill()
    wait_for_step(tmp_path / "run", 3, process=job.process)
    job.process_of("EngineCore").kill()
    done = job.finish(90)
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "2 losses within 50 steps, and recovery.rollout_restarts lets 1 be replaced" in told
    assert told.count("rollout-0 died in") == 2
    assert "rollout-0 is back after" in done.stdout
    assert sum(row.get("recovered/rollouts", 0) for row in step_rows(tmp_path / "run")) == 1
    assert "Traceback" not in done.stderr
    assert job.left_over() == []
    (kept,) = (tmp_path / "run/checkpoints").glob("step-*")
    begun = json.loads((kept / "progress.json").read_text())["rollouts"]
    assert len(begun["slots"]) == PER_STEP  # a step's prompts were under way

    done = train(tmp_path / "run", *overrides).start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    rows = step_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(num_steps))
    # The first step of either start has nothing from before; all others are one behind, but for
    # groups that the lost engine had, which may have been started anew a step later.
    assert [row["policy/lag"] for row in rows[:2] + rows[3:]] == [0, 1, 0, 1, 1, 1]
    assert [row["policy/lag_mean"] for row in rows[:2] + rows[3:]] == [0, 1, 0, 1, 1, 1]
    assert 0 <= rows[2]["policy/lag_mean"] <= rows[2]["policy/lag"] <= 1
    assert all(row["policy/mixed"] == 0 for row in rows)
    assert all(0 < row["gain/ess"] <= 1 for row in rows)
    assert all(row["tokens/trained_rl"] > 0 for row in rows)
    # Behaviour log-probs are those of the weights that sampled, not of the learner's.
    assert all(abs(row["policy/mismatch_kl"]) < 1e-4 for row in rows if row["policy/lag"] == 0)
    assert all(abs(row["policy/mismatch_kl"]) > 1e-5 for row in rows if row["policy/lag_mean"] > 0)
    assert trained_prompts(tmp_path / "run") == first_prompts(num_steps)
    for row in samples(tmp_path / "run"):
        if row["step"] != 2:
            assert theta(row["version"]) == row["step"] - rows[row["step"]]["policy/lag"]


def assert_every_token_knows_its_version(run_dir: Path, num_steps: int) -> None:
    """Of a run with IN_FLIGHT that was stopped in the evaluation after so many of its steps."""
    evaluated = [row["step"] for row in metrics(run_dir) if "eval/sums/pass@1" in row]
    assert evaluated == [0]
    rows = step_rows(run_dir)
    assert len(rows) == num_steps
    assert 1 <= max(row["policy/lag"] for row in rows) <= 2
    assert all(0 <= row["policy/lag_mean"] <= row["policy/lag"] <= 2 for row in rows)
    assert all("time/wait_generation_s" not in row for row in rows)
    assert all(row["sync/canary_mean"] < 1e-3 for row in rows if "sync/canary_mean" in row)
    # Which of those under way end first is a race; none is lost, none is trained twice.
    begun, left = begun_prompts(run_dir, num_steps)
    assert trained_prompts(run_dir) + left == begun
    assert begun.total() > trained_prompts(run_dir).total() == num_steps * PER_STEP
    mixed = [row for row in samples(run_dir) if row["version_spans"]]
    assert mixed, "no update hit a response in the middle"
    for row in mixed:
        versions = [theta(version) for version, _ in row["version_spans"]]
        assert versions == sorted(set(versions))
        assert sum(length for _, length in row["version_spans"]) == row["num_tokens"]
        assert theta(row["version"]) == versions[0]
        assert versions[-1] <= row["step"]
        assert row["step"] - versions[0] <= 2
