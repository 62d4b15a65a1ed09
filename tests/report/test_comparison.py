"""Runs compared from what they stored: who is paired, at which cost, with what interval."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.errors import UserError
from coop_rl.evaluation.estimators import paired_difference, seed_interval
from coop_rl.report.arms import arms_of
from coop_rl.report.comparison import Difference, compare_arms
from coop_rl.report.stored_run import Axis, read_runs
from tests.report.runs import write_run

NONE, SOME, MOST = [False] * 4, [True, False, False, False], [True, True, True, False]
RL = ("method.kind=rl",)


def compared(*folders: Path) -> dict[tuple[str, Axis], Difference]:
    arms = arms_of(read_runs(folders))
    return {(d.figure, d.axis): d for d in compare_arms(arms)}


def test_runs_that_differ_in_their_seed_alone_are_an_arm(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", seed=seed)
        write_run(tmp_path / f"b-{seed}", seed=seed, overrides=RL)
    arms = arms_of(read_runs(sorted(tmp_path.iterdir())))
    assert [(arm.name, [run.name for run in arm.runs]) for arm in arms] == [
        ("a", ["a-0", "a-1"]),
        ("b", ["b-0", "b-1"]),
    ]


@pytest.mark.parametrize(
    ("folders", "overrides", "names"),
    [
        (("x", "y"), ((), RL), ["x", "y"]),
        (("x-0", "x-1"), ((), ()), ["x-0", "x-1"]),
        (("one/x", "two/x"), ((), RL), ["bridge", "rl"]),
        (("one/x", "two/x"), ((), ("learner.lr=1e-5",)), ["learner.lr=0.0002", "learner.lr=1e-05"]),
    ],
)
def test_names_of_arms(
    tmp_path: Path,
    folders: tuple[str, ...],
    overrides: tuple[tuple[str, ...], ...],
    names: list[str],
) -> None:
    for folder, own in zip(folders, overrides, strict=True):
        write_run(tmp_path / folder, overrides=own)
    assert [arm.name for arm in arms_of(read_runs([tmp_path / f for f in folders]))] == names


def test_one_seed_has_an_interval_over_items(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right={0: NONE, 20: SOME})
    b = write_run(tmp_path / "b", right={0: NONE, 20: MOST}, overrides=RL)
    found = compared(a, b)["sums pass@1", "steps"]
    expected = paired_difference([float(x) for x in SOME], [float(x) for x in MOST])
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert (found.reference_value, found.other_value) == (0.25, 0.75)
    assert found.over == "4 items, 1 seed"


def test_several_seeds_have_an_interval_over_seeds(tmp_path: Path) -> None:
    rights = {0: (SOME, MOST), 1: (SOME, SOME), 2: (NONE, MOST)}
    for seed, (a, b) in rights.items():
        write_run(tmp_path / f"a-{seed}", seed=seed, right={20: a})
        write_run(tmp_path / f"b-{seed}", seed=seed, right={20: b}, overrides=RL)
    write_run(tmp_path / "b-9", seed=9, right={20: MOST}, overrides=RL)  # a has no such seed
    found = compared(*sorted(tmp_path.iterdir()))["sums pass@1", "steps"]
    expected = seed_interval([0.5, 0.0, 0.75])
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.over == "3 seeds"


def test_the_latest_evaluations_of_equal_cost_are_compared(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right={0: NONE, 10: SOME, 20: NONE})
    b = write_run(
        tmp_path / "b", right={0: NONE, 10: MOST, 20: MOST}, overrides=RL, cost=0.5, reward=0.6
    )
    found = compared(a, b)
    steps, seconds = (found["sums pass@1", axis] for axis in ("steps", "device_seconds"))
    assert (steps.reference_value, steps.other_value) == (0.0, 0.75)  # 20 steps of both
    assert (seconds.reference_value, seconds.other_value) == (0.25, 0.75)  # 10 of a, 20 of b
    loss = found["held-out SFT loss", "device_seconds"]
    assert loss.value == pytest.approx(0.28 - 0.29)
    assert loss.is_lower_better
    assert found["training reward", "tokens"].value == pytest.approx(0.1)


def test_runs_that_spent_nearly_the_same_are_compared_on_the_same_steps(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", cost=1.0)
    b = write_run(tmp_path / "b", cost=1.01, overrides=RL)
    for folder in (a, b):  # the prompts of the last step are easy
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        rows[-1]["reward/mean"] = 1.0
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compared(a, b)["training reward", "device_seconds"]
    assert found.value == pytest.approx(0.0)


def test_seeds_under_way_wait_for_their_end(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", seed=seed, num_steps=20 if seed == 0 else 2)
        write_run(tmp_path / f"b-{seed}", seed=seed, overrides=RL, reward=0.6 + seed)
    (tmp_path / "a-1/run.json").write_text('{"status": "running"}')
    found = compared(*sorted(tmp_path.iterdir()))["training reward", "steps"]
    assert found.value == pytest.approx(0.1)
    assert found.over == "1 seed"


def test_nothing_at_equal_cost_is_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right={0: NONE, 20: SOME})
    b = write_run(tmp_path / "b", right={0: NONE, 20: MOST}, overrides=RL, cost=3.0)
    found = compared(a, b)["sums pass@1", "device_seconds"]
    assert (found.value, found.over) == (None, "nothing stored at equal cost")


def test_no_seed_in_common_is_said(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", seed=seed, right={20: SOME})
        write_run(tmp_path / f"b-{seed}", seed=seed + 5, right={20: SOME}, overrides=RL)
    found = compared(*sorted(tmp_path.iterdir()))["sums pass@1", "steps"]
    assert (found.value, found.over) == (None, "no seed in common")


def test_the_terminal_shows_differences_with_their_intervals(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", right={0: NONE, 20: SOME})
    b = write_run(tmp_path / "b", right={0: NONE, 20: MOST}, overrides=RL)
    shown = CliRunner().invoke(app, ["compare", str(a), str(b)])
    for expected in ("b less a", "sums pass@1", "+0.500 [", "4 items, 1 seed", "steps, tokens"):
        assert expected in shown.output
    fields = [line.split() for line in shown.output.splitlines()]
    assert ["method.kind", "bridge", "rl"] in fields
    assert not any(field[:1] == ["run.name"] for field in fields)
    rows = json.loads(CliRunner().invoke(app, ["compare", str(a), str(b), "--json"]).output)
    assert {row["axis"] for row in rows} == {"steps", "tokens", "device_seconds"}


@pytest.mark.parametrize("command", [["compare"], ["report"], ["watch", "--port", "0"]])
def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path, command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, str(tmp_path)])
    assert isinstance(shown.exception, UserError)
    assert "is no run directory (no readable config.json); give a folder" in str(shown.exception)


def test_one_run_cannot_be_compared(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a")
    shown = CliRunner().invoke(app, ["compare", str(a), str(a)])
    assert "needs at least 2 run directories, got 1" in str(shown.exception)
