"""Whoever is lost, the run ends with its planned steps, bit for bit as if nothing had been."""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from coop_rl.observability.losses import losses, read_status
from tests.chaos.conftest import NUM_STEPS, OUTCOMES, OVERRIDES, Outcome
from tests.chaos.faults import SCENES, Fault, Scene, recorded
from tests.chaos.struck import StruckJob, wait
from tests.main_job.harness import metrics
from tests.main_job.test_losses import rows_of

SEED = 0
FIRST = 1
"""The step, from 0, after which the first fault strikes; the others follow 2 steps apart."""
MOST_DELAY_S = 1.5
"""How much later at most, so that it strikes at any place of a step."""
HANGS_SEEN_S = 60.0


def trained(run_dir: Path) -> Counter[tuple[int, str]]:
    """How many samples of which prompt each step was trained on."""
    rows = map(json.loads, (run_dir / "samples.jsonl").read_text().splitlines())
    return Counter((row["step"], row["prompt_id"]) for row in rows)


def repeated_steps(run_dir: Path) -> int:
    """How many steps' rows were kept aside."""
    path = run_dir / "metrics.repeated.jsonl"
    rows = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return sum("time/step_s" in row for row in rows)


def strike(job: StruckJob, run_dir: Path, fault: Fault, step: int, chance: random.Random) -> float:
    """Do it, or wait until it is done; returns when it was."""
    if not fault.number:
        wait((run_dir / "actors.json").exists, job)
        with suppress(psutil.NoSuchProcess):  # already
            (victim,) = fault.find(job, run_dir)
            wait(lambda: not victim.is_running(), job)
        return time.monotonic()
    wait(lambda: fault.when(run_dir, step), job)
    if fault.when.__name__ == "after_step":
        time.sleep(chance.uniform(0, MOST_DELAY_S))
    victims = fault.find(job, run_dir)
    assert victims
    for victim in victims:
        victim.send_signal(fault.number)
    return time.monotonic()


def watch(
    job: StruckJob, run_dir: Path, fault: Fault, began: float, counts: tuple[int, ...]
) -> Outcome:
    """Wait until a fault is seen, and until the run goes on."""
    num_losses, num_told, num_back = counts
    outcome = Outcome(fault.name)
    OUTCOMES.append(outcome)
    if not fault.is_told:
        last = recorded(run_dir)
        seen = going = wait(lambda: recorded(run_dir) > last, job)
        outcome.detected_in, outcome.steps_repeated = "-", 0
    elif fault.is_replaced:
        seen = wait(lambda: job.count(f"lost {fault.who}, which is replaced") > num_told, job)
        outcome.detected_in, outcome.steps_repeated = f"{seen - began:.1f} s", 0
        going = wait(lambda: job.count(f"{fault.who} is back after") > num_back, job)
    else:
        seen = wait(lambda: len(losses(read_status(run_dir))) > num_losses, job)
        outcome.detected_in = f"{seen - began:.1f} s"
        again = num_losses + 1

        def goes_on() -> bool:
            return any(row.get("recovered/restarts") == again for row in metrics(run_dir))

        going = wait(goes_on, job)
        loss = losses(read_status(run_dir))[num_losses]
        assert loss.who == (fault.who,)
        outcome.steps_repeated = loss.step - (loss.resumed_from or 0)
    outcome.recovered_in = f"{going - began:.1f} s"
    if fault.number == signal.SIGSTOP:
        assert seen - began < HANGS_SEEN_S
    return outcome


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_the_run_goes_on_as_if_nothing_had_been(
    scene: Scene, tmp_path: Path, undisturbed: Callable[[int], Path]
) -> None:
    there = undisturbed(NUM_STEPS)
    chance = random.Random(f"{SEED} {scene.name}")
    run_dir = tmp_path / "run"
    job = scene.job(run_dir, f"run.num_steps={NUM_STEPS}", *OVERRIDES).start()
    outcomes = []
    for number, fault in enumerate(scene.faults):
        step = FIRST + 2 * number + chance.randint(0, 1)
        if fault.number:
            wait(lambda step=step: recorded(run_dir) >= step - 1, job)  # type: ignore[misc]
        told, back = f"lost {fault.who}, which is replaced", f"{fault.who} is back after"
        num_losses = len(losses(read_status(run_dir)))
        counts = (num_losses, job.count(told), job.count(back))
        began = strike(job, run_dir, fault, step, chance)
        outcomes.append(watch(job, run_dir, fault, began, counts))
    check(job, run_dir, there, outcomes)


def check(job: StruckJob, run_dir: Path, there: Path, outcomes: list[Outcome]) -> None:
    """Hold a run that has been struck against one that has not."""
    done = job.finish(900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    left = job.leavings()
    ours, theirs = trained(run_dir), trained(there)
    for outcome in outcomes:
        outcome.prompts_lost = (theirs - ours).total()
        outcome.prompts_trained_twice = (ours - theirs).total()
        outcome.left_behind = len(left)
    status = read_status(run_dir)
    assert status["status"] == "finished"
    num_steps = len([row for row in metrics(there) if "time/step_s" in row])
    steps = [row["step"] for row in metrics(run_dir) if "time/step_s" in row]
    assert steps == list(range(num_steps))
    assert rows_of(run_dir) == rows_of(there)
    assert ours == theirs
    again = sum(max(0, loss.step - (loss.resumed_from or 0)) for loss in losses(status))
    assert repeated_steps(run_dir) == again
    assert left == []
