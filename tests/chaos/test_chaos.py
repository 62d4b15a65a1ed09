"""Whoever is lost, the run ends with its planned steps, bit for bit as if nothing had been."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from coop_rl.observability.losses import losses, read_status
from tests.chaos.conftest import NUM_STEPS, OUTCOMES, OVERRIDES, Outcome
from tests.chaos.faults import FAULTS, Fault
from tests.main_job.harness import metrics, train
from tests.main_job.test_resume import figures

SEED = 0
LIMIT_S = 240
FIRST, LAST = 2, 4
"""Steps, from 0, after one of which a fault strikes."""
MOST_DELAY_S = 1.5
"""And how much later at most, so that it strikes at any place of a step."""
SHARED_MEMORY = Path("/dev/shm")


def wait(is_so: Callable[[], bool]) -> float:
    """Wait for something; returns when it was so."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return time.monotonic()


def trained(run_dir: Path) -> Counter[tuple[int, str]]:
    """How many samples of which prompt each step was trained on."""
    rows = map(json.loads, (run_dir / "samples.jsonl").read_text().splitlines())
    return Counter((row["step"], row["prompt_id"]) for row in rows)


def repeated_steps(run_dir: Path) -> int:
    """How many steps' rows were kept aside."""
    path = run_dir / "metrics.repeated.jsonl"
    rows = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return sum("time/step_s" in row for row in rows)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.removeprefix("SIG"))
def test_the_run_goes_on_as_if_nothing_had_been(
    fault: Fault, tmp_path: Path, undisturbed: Path
) -> None:
    chance = random.Random(f"{SEED} {fault.name}")
    run_dir, step = tmp_path / "run", chance.randint(FIRST, LAST)
    before = set(SHARED_MEMORY.iterdir())
    job = train(run_dir, *OVERRIDES, *fault.overrides).start()
    wait(lambda: fault.when(run_dir, step))
    if fault.when.__name__ == "after_step":
        time.sleep(chance.uniform(0, MOST_DELAY_S))
    fault.find(job, run_dir).send_signal(fault.number)
    struck = time.monotonic()
    seen = wait(lambda: bool(read_status(run_dir).get("losses")))
    going = wait(lambda: any(row.get("recovered/restarts") for row in metrics(run_dir)))
    done = job.finish(LIMIT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    left = len(job.left_over()) + len(set(SHARED_MEMORY.iterdir()) - before)

    status = read_status(run_dir)
    (loss,) = losses(status)
    assert status["status"] == "finished"
    assert loss.who == (fault.who,)
    steps = [row["step"] for row in metrics(run_dir) if "time/step_s" in row]
    assert steps == list(range(NUM_STEPS))
    assert figures(run_dir) == figures(undisturbed)
    here, there = trained(run_dir), trained(undisturbed)
    repeated = repeated_steps(run_dir)
    assert repeated == loss.step - (loss.resumed_from or 0)
    assert f"going on from step {loss.resumed_from} (restart 1 of 3)" in done.stdout
    assert "Traceback" not in done.stderr
    outcome = Outcome(
        fault.name,
        f"{seen - struck:.1f} s",
        f"{going - struck:.1f} s",
        (there - here).total(),
        (here - there).total(),
        repeated,
        left,
    )
    OUTCOMES.append(outcome)
    assert (outcome.num_lost, outcome.num_twice, left) == (0, 0, 0)
