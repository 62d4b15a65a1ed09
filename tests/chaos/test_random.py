"""Many processes are killed at random: the run ends as it would have."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from coop_rl.observability.losses import losses, read_status
from tests.chaos.conftest import OUTCOMES, OVERRIDES, Outcome
from tests.chaos.faults import REWARD_WORKER, Find, actors, after_step, below, driver
from tests.chaos.struck import StruckJob, wait
from tests.chaos.test_chaos import check

SEED = 0
NUM_STEPS, NUM_KILLS = 60, 20
MOST_DELAY_S = 3.0
VICTIMS: dict[str, Find] = {
    "rollout-0": actors("rollout-0"),
    "an engine's core": below("rollout-0", "EngineCore"),
    "reward": actors("reward"),
    "a reward worker": below("reward", REWARD_WORKER),
    "learner-joint-0": actors("learner-joint-0"),
    "learner-shadow-0": actors("learner-shadow-0"),
    "meta-controller": actors("meta-controller"),
    "driver": driver,
}


def kill(job: StruckJob, run_dir: Path, find: Find) -> bool:
    """Kill a process, if it is there at the moment."""
    with suppress(psutil.Error, OSError, ValueError, KeyError):
        for victim in find(job, run_dir):
            victim.kill()
            return True
    return False


@pytest.mark.chaos
@pytest.mark.timeout(5400)
def test_twenty_random_kills_change_nothing(
    tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    """Rows bit for bit those of the same seed, so the final accuracy is inside any spread."""
    there = undisturbed(NUM_STEPS)
    chance = random.Random(SEED)
    steps = sorted(chance.sample(range(NUM_STEPS - 2), NUM_KILLS))
    run_dir = tmp_path / "run"
    budget = ("recovery.restarts=30", "recovery.rollout_restarts=30", "recovery.backoff_s=0.01")
    job = StruckJob.of(run_dir, f"run.num_steps={NUM_STEPS}", *OVERRIDES, *budget).start()
    began = time.monotonic()
    for step in steps:
        name = chance.choice(list(VICTIMS))
        wait(lambda step=step: after_step(run_dir, step), job)  # type: ignore[misc]
        time.sleep(chance.uniform(0, MOST_DELAY_S))
        wait(lambda name=name: kill(job, run_dir, VICTIMS[name]), job)  # type: ignore[misc]
        print(f"{time.monotonic() - began:.0f} s, after step {step}: {name}", flush=True)
    outcome = Outcome(f"{NUM_KILLS} random kills in {NUM_STEPS} steps", "-")
    OUTCOMES.append(outcome)
    check(job, run_dir, there, [outcome])
    lost = losses(read_status(run_dir))
    outcome.steps_repeated = sum(one.step - (one.resumed_from or 0) for one in lost)
    outcome.recovered_in = f"{time.monotonic() - began:.0f} s for all"
