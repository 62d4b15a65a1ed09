"""BRIDGE's choices: lambda, what guidance turns into, and when the shadow samples for itself."""

import json
from dataclasses import replace

import pytest

from coop_rl.algorithm.methods import Method, build_method
from coop_rl.algorithm.methods.base import StepData
from coop_rl.config import load_config
from coop_rl.types import (
    CooperativeGain,
    DemonstrationTerm,
    Guidance,
    Objective,
    Resolution,
)
from tests.algorithm.methods.scenes import DEMO, demonstration

NUM_STEPS = 12
FRESH = "shadow.num_rollout_actors=1"
GAIN = CooperativeGain(
    estimator="reweighted",
    value=0.0,
    stderr=0.1,
    reward_gap=0.0,
    kl_gap=None,
    ess=0.9,
    ess_joint=0.9,
    capped_share=0.0,
    shadow_kl=0.0,
    shadow_age=1,
    resolution=Resolution(),
    is_usable=True,
    is_resolved=True,
)


def bridge(*overrides: str) -> Method:
    return build_method(load_config(DEMO, [f"run.num_steps={NUM_STEPS}", *overrides]))


def mixes(method: Method, guidance: Guidance | None = None) -> list[float]:
    objectives = [method.objective(step, guidance) for step in range(NUM_STEPS)]
    assert all(o.rl_weight + o.sft_weight == pytest.approx(1.0, abs=1e-15) for o in objectives)
    return [o.rl_weight for o in objectives]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_lambda_rises_within_0_and_1_and_is_symmetric(schedule: str) -> None:
    risen = mixes(bridge(f"method.mix_schedule={schedule}"))
    assert 0.0 < risen[0] < 0.05
    assert risen == sorted(set(risen))
    for step, mix in enumerate(risen):
        assert mix + risen[NUM_STEPS - 1 - step] == pytest.approx(1.0, abs=1e-15)


def test_lambda_is_that_of_the_schedule() -> None:
    """At a quarter of the run: 1/4, and (1 - cos(pi/4)) / 2."""
    quarter = ("run.num_steps=10",)
    assert bridge("method.mix_schedule=linear", *quarter).objective(2).rl_weight == 0.25
    cosine = bridge("method.mix_schedule=cosine", *quarter).objective(2).rl_weight
    assert cosine == pytest.approx((1 - 0.5**0.5) / 2, abs=1e-15)
    assert set(mixes(bridge("method.mix=0.3"))) == {0.3}


def test_after_a_cold_start_without_rollouts_lambda_runs_as_in_a_run_of_the_steps_left() -> None:
    first = 5
    cold = (f"method.cold_start_steps={first}", "meta.w_objective=mixture")
    method = bridge("method.mix=0.3", *cold)
    assert mixes(method) == [0.0] * first + [0.3] * (NUM_STEPS - first)
    needs = [method.needs(step) for step in range(NUM_STEPS)]
    assert [need.rollouts for need in needs] == [step >= first for step in range(NUM_STEPS)]
    assert {need.demonstrations for need in needs} == {"next"}
    risen = mixes(bridge("method.mix_schedule=linear", *cold))
    left = bridge("method.mix_schedule=linear", f"run.num_steps={NUM_STEPS - first}")
    assert risen[first:] == [left.objective(step).rl_weight for step in range(NUM_STEPS - first)]
    learned = mixes(bridge("meta.guidance=[mix]", *cold), Guidance(mix=0.8))
    assert learned == [0.0] * first + [0.8] * (NUM_STEPS - first)


def test_lambda_is_taken_from_guidance_only_where_it_is_learned() -> None:
    said = Guidance(mix=0.8)
    assert set(mixes(bridge("method.mix=0.3", "meta.guidance=[adapter,mix]"), said)) == {0.8}
    assert set(mixes(bridge("method.mix=0.3", "meta.guidance=[mix]"))) == {0.3}
    assert set(mixes(bridge("method.mix=0.3"), said)) == {0.3}


def test_source_weights_become_terms() -> None:
    said = Guidance(0.5, source_weights=(("a", 0.9), ("b", 0.1)))
    objective = bridge().compose(StepData(0, [], [], said)).objective
    assert objective.terms == (
        DemonstrationTerm(share=0.9, source="a"),
        DemonstrationTerm(share=0.1, source="b"),
    )
    assert objective.sources == ("a", "b")
    assert replace(objective, terms=Objective(1.0, 0.0).terms) == bridge().objective(0)


def test_example_weights_have_mean_1_over_the_step() -> None:
    shown = [demonstration(index) for index in range(4)]
    said = Guidance(0.5, example_weights=(("p0", 3.0), ("p2", 0.5), ("elsewhere", 9.0)))
    lesson = bridge().compose(StepData(0, [], shown, said))
    weights = [d.weight for d in lesson.demonstrations]
    assert sum(weights) / 4 == pytest.approx(1.0, abs=1e-15)
    assert weights == pytest.approx([3 / 1.375, 1 / 1.375, 0.5 / 1.375, 1 / 1.375])
    assert [replace(d, weight=1.0) for d in lesson.demonstrations] == shown
    assert bridge().compose(StepData(0, [], shown, Guidance(0.5))).demonstrations == shown
    assert bridge().compose(StepData(0, [], shown)).demonstrations == shown
    assert bridge().compose(StepData(0, [], [], said)).demonstrations == []


@pytest.mark.parametrize("low", [replace(GAIN, ess=0.4), replace(GAIN, ess_joint=0.4)])
def test_low_ess_asks_for_fresh_rollouts_until_it_recovers(low: CooperativeGain) -> None:
    method = bridge(FRESH)
    assert not method.wants_fresh
    for gain, wanted in ((GAIN, False), (low, True), (low, True), (GAIN, False), (low, True)):
        method.observe_gain(gain)
        method.observe_evaluation(1, {})
        assert method.wants_fresh == wanted
    never = bridge()
    never.observe_gain(low)
    assert not never.wants_fresh
    alone = bridge(FRESH, "gain.estimator=reweighted")
    alone.observe_gain(low)
    assert not alone.wants_fresh


@pytest.mark.parametrize("ess", [0.4, 0.9])
def test_the_fallback_survives_a_checkpoint(ess: float) -> None:
    first, second = bridge(FRESH), bridge(FRESH)
    first.observe_gain(replace(GAIN, ess=ess))
    second.begin(100, json.loads(json.dumps(first.state())))
    assert second.wants_fresh == first.wants_fresh == (ess < 0.5)
    for method in (first, second):
        method.observe_gain(GAIN)
        assert not method.wants_fresh


def test_always_fresh_needs_no_low_ess() -> None:
    method = bridge(FRESH, "gain.estimator=fresh")
    assert method.wants_fresh
    assert not method.shadow_learns_own
    method.observe_gain(GAIN)
    assert method.wants_fresh
    own = bridge(FRESH, "shadow.rollouts=own")
    assert own.wants_fresh
    assert own.shadow_learns_own


def test_the_shadow_restarts_every_m_steps_but_not_at_the_first() -> None:
    assert [k for k in range(12) if bridge().objective(k).resync_shadow] == [5, 10]
    every = bridge("shadow.resync_every=1")
    assert [k for k in range(4) if every.objective(k).resync_shadow] == [1, 2, 3]
    for override in ("shadow.resync_every=null", "meta.w_objective=sft"):
        assert not any(bridge(override).objective(k).resync_shadow for k in range(12))


def test_auto_stays_reweighted_where_joints_luck_chooses_the_groups() -> None:
    """Dynamic sampling drops groups by joint's rewards: fresh ones were not chosen that way."""
    low = replace(GAIN, ess=0.1)
    for rl, falls_back in (
        ("{kind: reweighted}", True),
        ("{kind: dapo}", False),
        ("{kind: dapo, max_refills: 0}", True),
    ):
        method = bridge(FRESH, f"method.rl={rl}")
        method.observe_gain(low)
        assert method.wants_fresh is falls_back


def test_the_pooled_gain_is_part_of_the_state() -> None:
    method = bridge()
    method.observe_gain(replace(GAIN, value=0.2, stderr=0.1))
    again = bridge()
    again.load_state(json.loads(json.dumps(method.state())))
    assert again.gains.pooled() == method.gains.pooled()
    assert again.gains.pooled() is not None
