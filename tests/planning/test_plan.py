"""`coop-rl plan` as a user sees it."""

import os
import subprocess
import sys

from tests.main_job.harness import ROOT

GOLDEN = ROOT / "tests/planning/golden"


def plan(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "coop_rl", "plan", *arguments]
    # As wide as a pipe, whatever terminal the tests run in.
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_demos_plan_is_as_printed_before() -> None:
    done = plan("configs/local/demo.yaml", "--device-gib", "24")
    assert done.returncode == 0, done.stderr
    # After a wanted change: coop-rl plan configs/local/demo.yaml --device-gib 24 > the golden file
    assert done.stdout == (GOLDEN / "demo.txt").read_text()


LARGE = (
    "configs/local/demo.yaml",
    "--set=model.path=Qwen/Qwen3-8B-Base",
    "--set=model.dtype=bfloat16",
    "--set=rollout.dtype=bfloat16",
    "--set=learner.zero_stage=3",
    "--set=learner.activation_checkpointing=true",
    "--set=learner.micro_batch_tokens=8192",
    "--set=placement.learner.gpus=1",
    "--set=placement.shadow.gpus=1",
    "--set=placement.rollout.gpus=1",
)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    done = plan(*LARGE)
    assert done.returncode == 2
    assert "learner rank: " in done.stderr
    assert "DOES NOT FIT" in done.stderr
    assert "the smallest cluster that fits" in done.stderr


def test_the_smallest_cluster_fits() -> None:
    words = plan(*LARGE).stderr.split()
    ranks = words[words.index("(learner.num_ranks") + 1].rstrip(",")
    assert plan(*LARGE, f"--set=learner.num_ranks={ranks}").returncode == 0


def test_an_unknown_device_is_refused() -> None:
    done = plan("configs/local/demo.yaml", "--device", "H1000")
    assert done.returncode == 2
    assert "known are L4" in done.stderr
