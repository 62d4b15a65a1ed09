"""The main job on the real stack: Ray + vLLM + DeepSpeed ZeRO-2, with shadow and guidance."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coop_rl.config import load_config
from coop_rl.planning.memory import checkpoint_bytes
from coop_rl.planning.shape import shape_of
from tests.main_job.conftest import EVALUATE_EVERY, PROFILED, WHOLE_STEPS, WholeRun
from tests.main_job.harness import metrics


def step_rows(run_dir: Path) -> list[dict]:
    return [row for row in metrics(run_dir) if "reward/mean" in row]


def test_run_directory_holds_what_the_docs_say(whole_run: Path) -> None:
    run_dir = whole_run
    for name in ("config.json", "run.json", "metrics.jsonl", "samples.jsonl", "events", "logs"):
        assert (run_dir / name).exists(), name
    assert json.loads((run_dir / "run.json").read_text())["status"] == "finished"
    assert [p.name for p in sorted((run_dir / "checkpoints").iterdir())] == [
        "step-000004",
        "step-000008",
    ]


def test_every_step_is_recorded_with_sane_values(whole_run: Path) -> None:
    run_dir = whole_run
    rows = step_rows(run_dir)
    assert [row["step"] for row in rows] == list(range(WHOLE_STEPS))
    for row in rows:
        assert 0 <= row["reward/mean"] <= 1
        assert row["tokens/generated"] > 0
        assert row["tokens/trained_sft"] > 0
        assert row["sync/bytes"] > 1e6
        assert row["sync/shares_memory"] == 1
        assert row["policy/lag"] == 0
        assert abs(row["policy/mismatch_kl"]) < 1e-4
        assert row["grad/rl_norm"] >= 0
        assert row["grad/sft_norm"] > 0


def test_w_moves_and_the_shadow_differs(whole_run: Path) -> None:
    run_dir = whole_run
    rows = step_rows(run_dir)
    assert rows[0]["gain/value"] == 0.0
    assert rows[0]["guidance/bracket_norm"] == 0.0
    assert all(row["guidance/skipped"] == 0 for row in rows)
    assert all(row["guidance/update_norm"] > 0 for row in rows)
    assert rows[-1]["guidance/adapter_norm"] > rows[0]["guidance/adapter_norm"]
    assert all(row["guidance/bracket_norm"] > 0 for row in rows[2:])
    assert all(0.5 < row["gain/ess"] <= 1 for row in rows)
    assert all(math.isfinite(row["gain/stderr"]) for row in rows)


def test_accuracy_is_reported_before_between_and_after(whole: WholeRun) -> None:
    run_dir, done = whole.run_dir, whole.done
    evaluated = [row for row in metrics(run_dir) if "eval/sums/pass@1" in row]
    assert [row["step"] for row in evaluated] == [0, EVALUATE_EVERY, WHOLE_STEPS]
    for row in evaluated:
        assert (
            row["eval/sums/pass@1_low"] <= row["eval/sums/pass@1"] <= row["eval/sums/pass@1_high"]
        )
        assert 0 <= row["eval/sums/avg@2"] <= 1
    assert str(run_dir) in done.stdout.replace("\n", "")


def test_terminal_is_not_drowned_and_logs_are_per_actor(whole: WholeRun) -> None:
    run_dir, done = whole.run_dir, whole.done
    logs = {path.stem for path in (run_dir / "logs").iterdir()}
    assert {
        "rollout-0",
        "learner-joint-0",
        "learner-shadow-0",
        "meta-controller",
        "reward",
    } <= logs
    noise = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if "WARNING" in line or "Traceback" in line
    ]
    assert noise == []


def test_checkpoint_holds_both_branches_and_w(whole_run: Path) -> None:
    run_dir = whole_run
    folder = run_dir / "checkpoints/step-000008"
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.rglob("*.safetensors"):
        tensors |= {f"{path.parent.name}/{key}": value for key, value in load_file(path).items()}
    joint = {k for k in tensors if "joint" in k}
    shadow = {k for k in tensors if "shadow" in k}
    assert len(joint) >= 3 * 40
    assert len(shadow) >= 3 * 40
    assert any("lora_A" in k for k in tensors)
    config = load_config(run_dir / "config.json")
    planned = checkpoint_bytes(config, shape_of(config.model.path))
    written = sum(path.stat().st_size for path in folder.rglob("*"))
    assert written == pytest.approx(planned, rel=0.05)


def test_profile_names_every_actor_and_explains_its_seconds(whole: WholeRun) -> None:
    run_dir, done = whole.run_dir, whole.done
    events = json.loads((run_dir / "profile/trace.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert set(names.values()) == {
        "driver", "rollout-0", "reward", "learner-joint-0", "learner-shadow-0", "meta-controller",
    }  # fmt: skip
    found = Counter((names[e["pid"]], e["name"]) for e in events if e["ph"] in "Xb")
    assert found["rollout-0", "generate"] == found["reward", "score"] == 2 * 8
    for learner in ("learner-joint-0", "learner-shadow-0"):
        assert found[learner, "RL passes"] == found[learner, "optimizer"] == 2
    assert found["learner-joint-0", "SFT passes"] == found["learner-joint-0", "publish"] == 2
    assert found["meta-controller", "push w"] == found["rollout-0", "receive weights"] == 2
    assert found["driver", "pack"] == found["driver", "generate"] == found["driver", "train"] == 2
    steps = [row["time/step_s"] for row in step_rows(run_dir) if row["step"] in PROFILED]
    lines = (run_dir / "profile/seconds.md").read_text().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    driver = sum(float(seconds) for actor, _, seconds, _ in cells if actor == "driver")
    assert driver == pytest.approx(sum(steps), rel=0.05)
    assert "where the seconds went, steps 2 to 3" in done.stdout


def test_no_process_is_left(whole: WholeRun) -> None:
    assert whole.job.left_over() == []
