"""Engines that rest while learners train, and one of each role that is lost: not a bit differs."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.main_job.conftest import EVALUATE_EVERY, WHOLE_STEPS
from tests.main_job.harness import metrics, train, wait_for_step

CHECKPOINT_EVERY = 3
STEP = "time/step_s"
LOST_STEP = 4
"""Recorded, but after the last checkpoint: it is trained again."""
OTHERS = ("rollout-0", "learner-joint-0", "meta-controller")
"""Those of one device are not replaced in place, so one restart is for all of them."""


def figures(run_dir: Path) -> list[dict]:
    """Return all rows without what the clock measured, and losses counted."""
    return [
        {
            name: value
            for name, value in row.items()
            if not name.startswith(("time/", "perf/", "recovered/")) and name != "sync/seconds"
        }
        for row in metrics(run_dir)
    ]


def rows(path: Path) -> list[dict]:
    """Return the objects of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def status(run_dir: Path) -> dict:
    """Return run.json."""
    return json.loads((run_dir / "run.json").read_text())


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint."""
    return {
        f"{path.relative_to(checkpoint).parent}/{key}": tensor
        for path in checkpoint.rglob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


@pytest.mark.timeout(900)
def test_turns_and_the_loss_of_one_of_each_role_change_nothing(
    tmp_path: Path, whole_run: Path
) -> None:
    """The supervisor starts the driver again, from the last checkpoint; then the others die."""
    run_dir = tmp_path / "killed"
    job = train(
        run_dir,
        f"run.num_steps={WHOLE_STEPS}",
        f"evaluation.every={EVALUATE_EVERY}",
        f"checkpoint.every={CHECKPOINT_EVERY}",
        "placement.colocated=true",
    ).start()
    wait_for_step(run_dir, 0, process=job.process)
    job.process_of("RewardActor").kill()
    wait_for_step(run_dir, LOST_STEP, process=job.process)
    os.kill(status(run_dir)["pid"], signal.SIGKILL)
    wait_for_step(run_dir, LOST_STEP + 1, process=job.process)
    places = json.loads((run_dir / "actors.json").read_text())
    for name in OTHERS:
        os.kill(places[name]["pid"], signal.SIGKILL)
    done = job.finish()
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.left_over() == []
    first, second = (loss for loss in status(run_dir)["losses"] if loss["who"] != ["reward"])
    assert (first["who"], first["resumed_from"]) == (["driver"], CHECKPOINT_EVERY)
    assert set(second["who"]) <= set(OTHERS)
    assert second["who"]
    for number, text, loss in (
        (1, "SIGKILL without a word", first),
        (2, second["who"][0], second),
    ):
        told = rf"{text}[^;]*\(after step {loss['step']}\); going on from step "
        told += rf"{loss['resumed_from']} \(restart {number} of 3\)"
        assert len(re.findall(told, done.stdout)) == 1, told
    assert done.stdout.count("run directory") == 2  # before, and in the summary
    again = [row["step"] for row in rows(run_dir / "metrics.repeated.jsonl") if STEP in row]
    assert again == [
        step for loss in (first, second) for step in range(loss["resumed_from"], loss["step"])
    ]
    assert metrics(run_dir)[-2]["recovered/repeated_steps"] == len(again)
    steps = [row for row in metrics(run_dir) if STEP in row]
    assert all(row["time/sleep_s"] > 0 for row in steps)
    assert sum(row.get("recovered/reward_actors", 0) for row in steps) == 1
    assert figures(run_dir) == figures(whole_run)
    last = f"checkpoints/step-{WHOLE_STEPS:06d}"
    resumed, whole = state(run_dir / last), state(whole_run / last)
    assert resumed.keys() == whole.keys()
    assert {name.split("/")[0] for name in whole} == {"joint", "shadow", "meta"}
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
