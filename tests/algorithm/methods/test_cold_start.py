"""Cold start: SFT, and after one switch RL."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from coop_rl.algorithm.methods import Method, build_method
from coop_rl.algorithm.methods.base import Needs
from coop_rl.config import load_config
from coop_rl.errors import ConfigError
from coop_rl.types import Objective
from tests.algorithm.methods.scenes import DEMO, config_of, method_of

NLL = "eval/demonstrations/nll"
SFT, RL = Needs(False, "next"), Needs(True, "none")
LONG = 10_000
"""Demonstrations whose epochs outlast every curve here."""


def run(
    method: Method, curve: Sequence[float | None], resume: tuple[Method, int] | None = None
) -> list[bool]:
    """Whether each step is SFT; `curve` is the NLL measured after so many steps, None where not.

    With `resume` a second method takes over from the first's checkpoint after that many steps.
    """
    phases = []
    for step, nll in enumerate(curve):
        method.observe_gain(None)
        if resume and resume[1] == step:
            state = json.loads(json.dumps(method.state()))
            method = resume[0]
            method.begin(LONG, state)
        method.observe_evaluation(step, {} if nll is None else {NLL: nll})
        phases.append(method.needs(step) == SFT)
        assert method.needs(step) in (SFT, RL)
        assert (method.objective(step).sft_weight > 0) == phases[-1]
    return phases


def cold_start(*overrides: str, rows: int = LONG) -> Method:
    method = method_of("cold_start", *overrides)
    method.begin(rows, {})
    return method


CURVES = [
    ("patience=1", [3.0, 2.0, 1.5, 1.6, 1.0, 0.5], 3),
    ("patience=1", [3.0, 2.0, 2.0, 1.0], 2),
    ("patience=1", [3.0, 2.9, 2.8, 2.7], 4),
    ("patience=1", [3.0, None, None, 3.1, 2.0], 3),
    ("patience=2", [3.0, 3.1, 2.9, 3.0, 3.0, 0.1], 4),
    ("patience=2", [3.0, 3.1, 2.9, 3.0, 2.8, 2.9, 2.9, 0.1], 6),
    ("min_improvement=0.1", [3.0, 2.8, 2.75, 2.0], 2),
    ("min_improvement=0.1", [3.0, 2.85, 2.7, 2.55], 4),
]


@pytest.mark.parametrize(("override", "curve", "switch"), CURVES)
def test_rl_starts_where_the_nll_stops_falling(
    override: str, curve: Sequence[float | None], switch: int
) -> None:
    want = [step < switch for step in range(len(curve))]
    assert run(cold_start(override), curve) == want


def test_a_lower_nll_after_the_switch_changes_nothing() -> None:
    curve = [3.0, 2.0, 2.5, *[1.0 / (k + 1) for k in range(50)]]
    assert run(cold_start(), curve) == [True, True] + [False] * 51


@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize(("override", "curve", "switch"), CURVES)
def test_a_run_resumed_from_json_at_any_step_switches_at_the_same_one(
    override: str, curve: Sequence[float | None], switch: int, stop: int
) -> None:
    fresh = method_of("cold_start", override)
    assert run(cold_start(override), curve, (fresh, stop)) == run(cold_start(override), curve)


@pytest.mark.parametrize("switch", ["validation", "epochs"])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_the_epochs_end_the_first_phase_at_the_latest(rows: int, switch: str) -> None:
    per_step = config_of("cold_start").demonstrations.per_step
    num_steps = 2 * math.ceil(rows / per_step)
    method = cold_start("epochs=2", f"switch={switch}", rows=rows)
    falling = [1.0 / (k + 1) for k in range(num_steps + 5)]
    assert run(method, falling) == [step < num_steps for step in range(num_steps + 5)]


def test_only_the_epochs_count_where_the_config_says_so() -> None:
    method = cold_start("epochs=1", "switch=epochs", rows=5 * 32)
    assert run(method, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == [True] * 5 + [False]


def test_each_phase_has_one_loss_and_sft_its_own_rate() -> None:
    method = cold_start("sft_lr_scale=10")
    assert method.objective(0) == Objective(0.0, 1.0, lr_scale=10.0)
    method.observe_evaluation(0, {NLL: 1.0})
    method.observe_evaluation(1, {NLL: 2.0})
    assert method.objective(1) == Objective(1.0, 0.0)


TUNED = (
    "switch=epochs",
    "epochs=2",
    "sft_lr=3e-3",
    "sft_lr_schedule=cosine",
    "sft_lr_final=0.1",
    "sft_warmup_steps=2",
    "fresh_optimizer=true",
)


def test_a_tuned_sft_phase_runs_its_own_schedule_over_its_epochs() -> None:
    method = cold_start(*TUNED, rows=160)  # 2 epochs of 5 steps
    warm_up = np.array([0.5, 1.0])
    progress = np.arange(8) / 8
    cosine = 0.1 + 0.9 * (1.0 + np.cos(np.pi * progress)) / 2.0
    want = 3e-3 * np.concatenate([warm_up, cosine])
    rates = []
    for step in range(10):
        method.observe_evaluation(step, {})
        rates.append(method.objective(step).lr)
        assert not method.objective(step).has_second_optimizer
    assert rates == pytest.approx(want.tolist(), rel=1e-12)


def test_with_a_fresh_optimizer_rl_is_a_training_of_its_own_from_the_switch_on() -> None:
    learner = ("lr=0.01", "warmup_steps=2", "lr_schedule=linear", "lr_final=0.5")
    overrides = [f"learner.{o}" for o in learner] + [f"method.{o}" for o in TUNED]
    config = load_config(DEMO, ["method.kind=cold_start", "run.num_steps=20", *overrides])
    method = build_method(config)
    method.begin(160, {})
    for step in range(11):
        method.observe_evaluation(step, {})
    linear = 0.5 + 0.5 * (1.0 - np.arange(8) / 8)
    want = 0.01 * np.concatenate([[0.5, 1.0], linear])
    objectives = [method.objective(step) for step in range(10, 20)]
    assert [o.lr for o in objectives] == pytest.approx(want.tolist(), rel=1e-12)
    assert all(o.has_second_optimizer and o.rl_weight == 1.0 for o in objectives)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("sft_lr=1e-3", "sft_lr_scale=2"), "sft_lr 0.001 and sft_lr_scale 2 both set the rate"),
        (("sft_lr_schedule=cosine",), "sft_lr_schedule cosine is about sft_lr, which is null"),
        (("sft_lr_final=0.1",), "sft_lr_final 0.1 is about sft_lr"),
        (("sft_warmup_steps=3",), "sft_warmup_steps 3 is about sft_lr"),
    ],
)
def test_a_rate_given_twice_or_a_schedule_of_none_is_refused(
    overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of("cold_start", *overrides)


def test_other_evaluations_are_no_measurement() -> None:
    method = cold_start()
    for step in range(5):
        method.observe_evaluation(step, {"eval/math/pass@1": 0.5})
    assert method.needs(5) == SFT
