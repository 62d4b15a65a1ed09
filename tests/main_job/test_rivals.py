"""Every rival runs on the real stack, on the same loop; their rules are in tests/whole_loop."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.main_job.harness import metrics, train

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]
NUM_STEPS = 10
PAIRED = "prompts.path=configs/local/demo/demonstrations.jsonl"
"""Prompts that have demonstrations."""
PLAIN = {
    "sum": [0.5] * NUM_STEPS,
    "alternate": [1.0, 0.0] * (NUM_STEPS // 2),
    "chord": [0.525 - 0.425 * math.cos(math.pi * k / 200) for k in range(NUM_STEPS)],
}
"""Share of RL at every step."""


def ten_steps(run_dir: Path, kind: str, *overrides: str) -> list[dict[str, Any]]:
    sets = (f"run.num_steps={NUM_STEPS}", f"method.kind={kind}", *overrides)
    done = train(run_dir, *sets).start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row for row in metrics(run_dir) if "grad/norm" in row]
    assert [row["step"] for row in rows] == list(range(NUM_STEPS))
    assert all(math.isfinite(row["grad/norm"]) for row in rows)
    assert all(row["gain/value"] is None for row in rows)
    assert not {p.stem for p in (run_dir / "logs").iterdir()} & {
        "meta-controller",
        "learner-shadow-0",
    }
    return rows


@pytest.mark.parametrize("kind", PLAIN)
def test_both_losses_are_weighed_as_the_method_says(tmp_path: Path, kind: str) -> None:
    rows = ten_steps(tmp_path / "run", kind)
    assert [row["guidance/mix"] for row in rows] == pytest.approx(PLAIN[kind])
    for row, share in zip(rows, PLAIN[kind], strict=True):
        assert (row["loss/rl"] is not None) == (share > 0)
        assert (row["loss/sft"] is not None) == (share < 1)
        assert (row["tokens/generated"] > 0) == (share > 0)
        assert (row["tokens/trained_sft"] > 0) == (share < 1)


def test_hpt_trains_each_prompt_on_one_of_the_two(tmp_path: Path) -> None:
    rows = ten_steps(tmp_path / "run", "hpt", PAIRED)
    for row in rows:
        num_wrong = round(8 * row["groups/all_wrong"])
        assert row["tokens/trained_rl"] < row["tokens/generated"] or num_wrong == 0
        assert (row["tokens/trained_sft"] > 0) == (num_wrong > 0)
    assert {row["groups/all_wrong"] > 0 for row in rows} == {True}


@pytest.mark.parametrize("kind", ["luffy", "srft"])
def test_every_prompt_brings_its_expert(tmp_path: Path, kind: str) -> None:
    rows = ten_steps(tmp_path / "run", kind, PAIRED)
    steps = [row["ledger/demonstrations"] for row in rows]
    assert steps == [8 * (k + 1) for k in range(NUM_STEPS)]
    assert all(row["loss/rl"] is not None and row["loss/sft"] is not None for row in rows)


def test_relift_teaches_when_its_buffer_is_full(tmp_path: Path) -> None:
    rows = ten_steps(tmp_path / "run", "relift", PAIRED, "method.buffer_size=6")
    held = 0
    for row in rows:
        is_sft = held >= 6
        assert (row["tokens/generated"] == 0) == is_sft
        assert row["tokens/trained_sft"] > 0 if is_sft else row["loss/sft"] is None
        held += -6 if is_sft else round(8 * row["groups/all_wrong"])
    assert any(row["tokens/trained_sft"] > 0 for row in rows)


def test_cold_start_switches_to_rl_for_good(tmp_path: Path) -> None:
    # A rate this large makes the validation NLL rise at once.
    overrides = ("method.check_every=2", "method.sft_lr_scale=50", "learner.warmup_steps=0")
    rows = ten_steps(tmp_path / "run", "cold_start", *overrides)
    measured = [row for row in metrics(tmp_path / "run") if "eval/demonstrations/nll" in row]
    nll = [row["eval/demonstrations/nll"] for row in measured]
    first_rise = next(i for i in range(1, len(nll)) if nll[i] >= min(nll[:i]))
    switch = measured[first_rise]["step"]
    assert 0 < switch < NUM_STEPS
    assert [row["tokens/generated"] > 0 for row in rows] == [k >= switch for k in range(NUM_STEPS)]
    assert [row["tokens/trained_sft"] > 0 for row in rows] == [k < switch for k in range(NUM_STEPS)]


def test_a_tuned_cold_start_is_two_trainings_in_a_row(tmp_path: Path) -> None:
    overrides = (
        "method.switch=epochs",
        "method.epochs=1",
        "demonstrations.per_step=512",
        "method.sft_lr=3e-4",
        "method.sft_lr_schedule=cosine",
        "method.sft_warmup_steps=1",
        "method.fresh_optimizer=true",
    )
    rows = ten_steps(tmp_path / "run", "cold_start", *overrides)
    switch = next(row["step"] for row in rows if row["tokens/generated"] > 0)
    assert switch == 4  # an epoch over 2048 demonstrations less those kept for validation
    assert [row["tokens/trained_sft"] > 0 for row in rows] == [k < switch for k in range(NUM_STEPS)]
    assert rows[switch - 1]["loss/sft"] < rows[0]["loss/sft"]


def test_prefix_gives_failed_prompts_the_start_of_a_demonstration(tmp_path: Path) -> None:
    with Path("configs/local/demo/demonstrations.jsonl").open() as file:
        rows = list(islice(file, 16))  # both steps of an epoch come up five times
    (tmp_path / "few.jsonl").write_text("".join(rows))
    solution = {json.loads(row)["id"]: json.loads(row)["reasoning"] for row in rows}
    overrides = (
        f"prompts.path={tmp_path / 'few.jsonl'}",
        "method.share=0.9",
        "observability.samples_per_step=1000",
    )
    found = ten_steps(tmp_path / "run", "prefix", *overrides)
    assert all("groups/given" not in row for row in found[:2])
    aided = [row for row in found if "groups/given" in row]
    assert aided
    assert all(row["tokens/trained_sft"] == 0 for row in found)
    # An engine's log-probs of what it went on with are the learner's, given the same context.
    assert all(abs(row["policy/mismatch_kl"]) < 1e-4 for row in found)
    for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert solution[sample["prompt_id"]].startswith(sample["given"][:5])


def test_self_distil_learns_from_the_policy_that_sees_the_demonstration(tmp_path: Path) -> None:
    # The demo's model knows no words: its teacher reads the solved sum before the same sum.
    template = 'method.template="{prompt}{demonstration}\n{prompt}"'
    rows = ten_steps(tmp_path / "run", "self_distil", PAIRED, template)
    assert all(row["tokens/trained_rl"] == row["tokens/generated"] > 0 for row in rows)
    assert all(row["tokens/trained_sft"] == 0 for row in rows)
    assert all(row["loss/rl"] != 0.0 for row in rows)
    assert sum(row["loss/rl"] for row in rows[-3:]) < sum(row["loss/rl"] for row in rows[:3])
