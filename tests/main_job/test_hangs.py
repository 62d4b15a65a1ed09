"""A process of a run is stopped (SIGSTOP): seen, told, named and ended within a minute."""

import json
import time
from pathlib import Path

import psutil
import pytest

from tests.main_job.harness import train, wait_for_step

WITHIN_S = 60.0
NO_SECOND_TRY = ("recovery.restarts=0", "recovery.rollout_restarts=0", "recovery.reward_restarts=0")


def process_of(run_dir: Path, actor: str) -> psutil.Process:
    """Return the process of an actor; of an engine, its core, beside which the actor answers."""
    places = json.loads((run_dir / "actors.json").read_text())
    process = psutil.Process(places[actor]["pid"])
    if actor != "rollout-0":
        return process
    below = process.children(recursive=True)
    return next(child for child in below if "EngineCore" in " ".join(child.cmdline()))


@pytest.mark.prove  # tests/distributed/test_vigil decides, test_watch kills; here, all roles do it.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("actor", ["rollout-0", "learner-joint-0", "meta-controller", "reward"])
def test_a_stopped_process_ends_the_run_by_name(tmp_path: Path, actor: str) -> None:
    run_dir = tmp_path / "run"
    job = train(run_dir, "run.num_steps=500", "checkpoint.every=0", *NO_SECOND_TRY).start()
    wait_for_step(run_dir, 1, timeout_s=400, process=job.process)
    process_of(run_dir, actor).suspend()
    began = time.monotonic()
    while json.loads((run_dir / "run.json").read_text())["status"] == "running":
        assert time.monotonic() - began < 2 * WITHIN_S
        time.sleep(0.5)
    took_s = time.monotonic() - began
    done = job.finish(60)
    assert done.returncode == 1, done.stderr[-2000:]
    assert f"for {actor} (" in done.stdout
    assert "Traceback" not in done.stderr
    error = json.loads((run_dir / "run.json").read_text())["error"]
    assert error.startswith(f"ActorLostError: {actor} ("), error
    stacks = "".join(log.read_text(errors="replace") for log in run_dir.glob("logs/*.log"))
    assert "\nstacks of pid" in stacks
    assert "most recent call first" in stacks
    assert job.left_over() == []
    assert took_s < WITHIN_S
    print(f"{actor}: ended after {took_s:.0f} s")
