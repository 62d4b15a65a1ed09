"""A run that stopped and went on is bit for bit the run that never stopped."""

from pathlib import Path

import pytest
import torch

from coop_rl.observability.metrics import Metrics
from tests.whole_loop.rig import Run, configure, start
from tests.whole_loop.toy import make_task

SOURCES = {"good": "right", "bad": "wrong"}
CASES: dict[str, tuple[str, ...]] = {
    "adapter": (),
    "adapter_persistent": ("shadow.resync_every=null",),
    "adapter_random": ("meta.w_objective=random",),
    "mix": ("meta.guidance=[mix]",),
    "demonstrations": ("meta.guidance=[demonstrations]",),
    "all_guidance": ("meta.guidance=[adapter,mix,demonstrations]",),
    "placebo": (
        "meta.guidance=[mix,demonstrations]",
        "meta.per_example=true",
        "meta.lookahead=placebo",
    ),
    "per_example": ("meta.guidance=[demonstrations]", "meta.per_example=true"),
    "per_example_all": (
        "meta.guidance=[adapter,mix,demonstrations]",
        "meta.per_example=true",
    ),
    "several_updates": (
        "learner.num_minibatches=2",
        "learner.num_epochs=2",
        "method.rl={kind: ppo, kl: {weight: 0.1}}",
    ),
    "gain_every_step": ("meta.guidance=[mix]", "gain.every=1", "gain.window=3"),
    "own_rollouts": ("shadow.rollouts=own", "shadow.num_rollout_actors=1"),
    "schedules": (
        "method.mix_schedule=cosine",
        "learner.lr_schedule=cosine",
        "learner.warmup_steps=2",
        "adapter.lr_schedule=linear",
        "adapter.warmup_steps=2",
    ),
    "cold_start_steps": (
        "method.cold_start_steps=4",
        "meta.w_objective=mixture",
        "meta.guidance=[adapter,mix,demonstrations]",
    ),
    "dapo": ("method.kind=rl", "method.rl={kind: dapo, max_refills: 2}"),
    "sum": ("method.kind=sum",),
    "scaffold": ("meta.guidance=[scaffold,mix]",),
}


WHOLE: dict[tuple[str, ...], Run] = {}
"""Uninterrupted runs, which several stops are compared with, by their overrides."""


def stop_and_go_on(
    folder: Path, stop_after: int, *overrides: str, sources: dict[str, str] | None = None
) -> tuple[Run, Run, list[Metrics]]:
    """Return the uninterrupted run, the resumed one, and the rows of the latter's two parts."""
    config, task = configure("run.num_steps=8", *overrides), make_task(6, 3, **(sources or SOURCES))
    if overrides not in WHOLE:
        WHOLE[overrides] = start(config, folder / "whole", task)
    whole = WHOLE[overrides]
    stopped = start(config, folder / "stopped", task, stop_after=stop_after)
    assert len(stopped.records) == stop_after
    resumed = start(config, folder / "stopped", task, resumes=stopped)
    assert len(resumed.records) == 8 - stop_after
    return whole, resumed, stopped.rows + resumed.rows


def assert_same(whole: Run, resumed: Run, rows: list[Metrics]) -> None:
    """The rows, and everything that is saved at the end."""
    for ours, theirs in zip(whole.rows, rows, strict=True):
        assert ours == theirs
    first, second = whole.saved(), resumed.saved()
    assert first.keys() == second.keys()
    for name, value in first.items():
        other = second[name]
        if isinstance(value, torch.Tensor):
            assert isinstance(other, torch.Tensor)
            assert torch.equal(value, other), name
        else:
            assert value == other, name


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, case: str) -> None:
    whole, resumed, rows = stop_and_go_on(tmp_path, 4, *CASES[case])
    assert_same(whole, resumed, rows)


def test_a_guided_run_goes_on_bit_for_bit_from_every_step(tmp_path: Path) -> None:
    """Stops at an epoch's end (3, 6), inside a window of gains, and between two re-syncs."""
    config = configure(
        "run.num_steps=8", *CASES["per_example_all"], "gain.every=1", "gain.window=3"
    )
    task = make_task(6, 3, **SOURCES)
    whole = start(config, tmp_path / "whole", task)
    assert whole.column("gain/pooled_steps") == [1, 2, 3, 3, 3, 3, 3, 3]
    assert all(whole.column("guidance/update_norm"))
    assert 3 * config.prompts.per_step % len(task.prompts) == 0
    for stop_after in range(1, 8):
        folder = tmp_path / str(stop_after)
        stopped = start(config, folder, task, stop_after=stop_after)
        resumed = start(config, folder, task, resumes=stopped)
        assert_same(whole, resumed, stopped.rows + resumed.rows)


@pytest.mark.parametrize("stop_after", [1, 2, 7])
def test_the_lookahead_survives_a_stop_at_any_step(tmp_path: Path, stop_after: int) -> None:
    """After the first step it has nothing to say yet, after the second one it does."""
    whole, resumed, rows = stop_and_go_on(tmp_path, stop_after, *CASES["per_example_all"])
    assert_same(whole, resumed, rows)
    products = [record.joint.lookahead.components for record in whole.records]
    assert [bool(product) for product in products] == [False, False] + [True] * 6
    measured = [record.joint.lookahead.examples for record in whole.records]
    assert measured[stop_after:] == [record.joint.lookahead.examples for record in resumed.records]
    assert measured[-1]


@pytest.mark.parametrize("stop_after", [3, 4, 5, 6])
def test_relift_goes_on_with_its_buffer_and_its_second_optimiser(
    tmp_path: Path, stop_after: int
) -> None:
    overrides = ("method.kind=relift", "method.buffer_size=3")
    whole, resumed, rows = stop_and_go_on(
        tmp_path, stop_after, *overrides, sources={"good": "right"}
    )
    assert_same(whole, resumed, rows)
    is_sft = [record.objective.has_second_optimizer for record in whole.records]
    assert any(is_sft[:stop_after])
    assert any(is_sft[stop_after:])


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5])
def test_cold_start_goes_on_in_its_phase(tmp_path: Path, stop_after: int) -> None:
    """No NLL is low enough: the second miss, after step 4, ends SFT, also for a run that stops
    there before the measurement."""
    overrides = (
        "method.kind=cold_start",
        "method.check_every=2",
        "method.patience=2",
        "method.min_improvement=100",
        "method.epochs=5",
    )
    whole, resumed, rows = stop_and_go_on(
        tmp_path, stop_after, *overrides, sources={"good": "right"}
    )
    assert_same(whole, resumed, rows)
    assert [record.objective.sft_weight for record in whole.records] == [1.0] * 4 + [0.0] * 4


TUNED = (
    "method.kind=cold_start",
    "method.switch=epochs",
    "method.epochs=2",
    "method.sft_lr=0.02",
    "method.sft_lr_schedule=cosine",
    "method.sft_warmup_steps=1",
    "method.fresh_optimizer=true",
    "learner.lr_schedule=cosine",
    "learner.warmup_steps=2",
)


@pytest.mark.parametrize("stop_after", [2, 4, 6])
def test_a_tuned_cold_start_goes_on_with_its_rates_and_both_optimisers(
    tmp_path: Path, stop_after: int
) -> None:
    """Two epochs are 4 steps; the stops are in SFT, at the switch and in RL."""
    whole, resumed, rows = stop_and_go_on(tmp_path, stop_after, *TUNED, sources={"good": "right"})
    assert_same(whole, resumed, rows)
    assert [record.objective.has_second_optimizer for record in whole.records] == (
        [False] * 4 + [True] * 4
    )


def test_lspo_goes_on_from_theta_alone(tmp_path: Path) -> None:
    """Its w lives for one step."""
    overrides = ("method.kind=lspo", "adapter.lr=0.1")
    whole, resumed, rows = stop_and_go_on(tmp_path, 4, *overrides, sources={"good": "right"})
    assert_same(whole, resumed, rows)
    assert any("scaffold/turned" in row for row in resumed.rows)


@pytest.mark.parametrize("stop_after", [2, 4, 6])
def test_prefix_goes_on_with_what_it_remembers(tmp_path: Path, stop_after: int) -> None:
    overrides = ("method.kind=prefix", "method.share=0.9", "method.anneal_steps=1000")
    whole, resumed, rows = stop_and_go_on(
        tmp_path, stop_after, *overrides, sources={"good": "right"}
    )
    assert_same(whole, resumed, rows)
    assert any(row.get("groups/given") for row in resumed.rows)
