"""A run that learns nothing stops with the batch saved, or says so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coop_rl.algorithm.roles import StepRecord
from coop_rl.driver.guards import (
    MOST_SKIPPED_STEPS,
    QUIET_STEPS,
    GuardedObserver,
    GuardedRollouts,
)
from coop_rl.errors import DivergedError, UnscoredError
from coop_rl.types import NOTHING_GIVEN, Given, PolicyVersion, Reward, Sampled, ScoredGroup
from tests.observability.records import CRASHED, RIGHT, TIMEOUT, WRONG, bridge, group, sft

VERSION = PolicyVersion(3, 3)


class Given3:
    """Rollouts that are what a test says."""

    def __init__(self, *groups: Sequence[Reward]) -> None:
        self.sampled = Sampled([group(str(i), *rewards) for i, rewards in enumerate(groups)])

    def begin(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""

    def state(self) -> dict[str, Any]:
        return {"next": 7}

    def next_batch(self, step: int, version: PolicyVersion, given: Given) -> Sampled:
        return self.sampled


class Rows:
    """An observer that keeps what it is given."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def record(self, record: StepRecord) -> None:
        self.steps.append(record.step)

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(-step)


def test_up_to_half_may_be_unscored(tmp_path: Path) -> None:
    inner = Given3((RIGHT, CRASHED), (TIMEOUT, WRONG))
    guarded = GuardedRollouts(inner, tmp_path)
    assert guarded.next_batch(3, VERSION, NOTHING_GIVEN) is inner.sampled
    assert guarded.state() == {"next": 7}
    assert not list(tmp_path.iterdir())


def test_most_of_a_step_unscored_stops_the_run_with_the_batch(tmp_path: Path) -> None:
    guarded = GuardedRollouts(Given3((RIGHT, CRASHED), (TIMEOUT, CRASHED)), tmp_path)
    path = tmp_path / "stopped/step-000003.jsonl"
    with pytest.raises(UnscoredError, match=rf"3 of the 4 responses of step 3 .*{path}"):
        guarded.next_batch(3, VERSION, NOTHING_GIVEN)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["scored", "crashed", "timeout", "crashed"]
    assert rows[1]["token_ids"] == [1, 1]


def loud(step: int) -> StepRecord:
    """A step with a signal."""
    return replace(bridge(step), sampled=Sampled((group("a", WRONG, RIGHT),)))


def skipped(step: int) -> StepRecord:
    record = loud(step)
    updates = replace(record.joint.updates, is_applied=False, grad_norm=float("inf"))
    return replace(record, joint=replace(record.joint, updates=updates))


def test_updates_skipped_in_a_row_stop_the_run(tmp_path: Path) -> None:
    inner, told = Rows(), list[str]()
    observer = GuardedObserver(inner, tmp_path, told.append)
    for step in range(MOST_SKIPPED_STEPS - 1):
        observer.record(skipped(step))
    observer.record(loud(50))  # one that was applied: the count begins anew
    for step in range(60, 59 + MOST_SKIPPED_STEPS):
        observer.record(skipped(step))
    last = 59 + MOST_SKIPPED_STEPS
    with pytest.raises(DivergedError, match=rf"joint skipped 5 steps in a row, up to step {last}"):
        observer.record(skipped(last))
    assert inner.steps[-1] == last  # its row is written first
    assert (tmp_path / f"stopped/step-{last:06d}.jsonl").is_file()
    assert told == []


def equal(step: int) -> StepRecord:
    groups: tuple[ScoredGroup, ...] = (group("a", WRONG, WRONG, CRASHED), group("b", RIGHT, RIGHT))
    return replace(bridge(step), sampled=Sampled(groups))


def zero(step: int) -> StepRecord:
    record = sft(step)
    updates = replace(record.joint.updates, grad_norm=0.0)
    return replace(record, joint=replace(record.joint, updates=updates))


@pytest.mark.parametrize(
    ("quiet", "why"), [(equal, "one and the same reward"), (zero, "the gradient is zero")]
)
def test_steps_without_a_signal_are_told_now_and_then(tmp_path: Path, quiet: Any, why: str) -> None:
    told: list[str] = []
    observer = GuardedObserver(Rows(), tmp_path, told.append)
    for step in range(QUIET_STEPS - 1):
        observer.record(quiet(step))
    observer.record(loud(10) if quiet is equal else sft(10))
    assert told == []
    for step in range(2 * QUIET_STEPS):
        observer.record(quiet(step))
    assert [line.split(":")[0] for line in told] == [
        f"nothing to learn from for {n} steps" for n in (QUIET_STEPS, 2 * QUIET_STEPS)
    ]
    assert why in told[0]
