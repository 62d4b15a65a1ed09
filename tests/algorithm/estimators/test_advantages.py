"""Advantages against plain loops, and what each kind of baseline is for."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from coop_rl.algorithm.estimators import (
    ESTIMATORS,
    Cispo,
    Dapo,
    DrGrpo,
    Grpo,
    Gspo,
    Ppo,
    ReinforcePlusPlus,
    Reweighted,
    RlEstimator,
    Rloo,
    build_estimator,
)
from coop_rl.algorithm.estimators.base import ConfiguredEstimator
from coop_rl.config.estimators import (
    AnyRl,
    CispoRl,
    DapoRl,
    DrGrpoRl,
    GrpoRl,
    GspoRl,
    PpoRl,
    ReinforcePlusPlusRl,
    ReweightedRl,
    RlooRl,
    RlSettings,
)
from coop_rl.types import ScoredGroup
from tests.algorithm.estimators import reference
from tests.algorithm.estimators.scenes import MAX_TOKENS, built, random_groups, scored_group

Rewards = list[list[float]]
CASES: list[tuple[RlEstimator, Callable[[Rewards], Rewards]]] = [
    (
        built(ReweightedRl(normalize_by_std=True, ratio_cap=5.0)),
        lambda r: reference.grouped(r, True),
    ),
    (
        built(ReweightedRl(normalize_by_std=False, ratio_cap=5.0)),
        lambda r: reference.grouped(r, False),
    ),
    (built(GrpoRl(clip=0.2)), lambda r: reference.grouped(r, True)),
    (built(DrGrpoRl(clip=0.2)), lambda r: reference.grouped(r, False)),
    (Dapo(DapoRl(), MAX_TOKENS), lambda r: reference.grouped(r, True)),
    (built(RlooRl(ratio_cap=5.0)), reference.leave_one_out),
    (
        built(ReinforcePlusPlusRl(baseline="batch", clip=0.2)),
        lambda r: reference.batch_normalized(r, "batch"),
    ),
    (
        built(ReinforcePlusPlusRl(baseline="group", clip=0.2)),
        lambda r: reference.batch_normalized(r, "group"),
    ),
    (built(GspoRl(clip_low=3e-4, clip_high=4e-4)), lambda r: reference.grouped(r, True)),
    (built(CispoRl(clip_low=None, clip_high=4.0)), lambda r: reference.grouped(r, True)),
    (built(PpoRl(clip=0.2, dual_clip=3.0)), lambda r: reference.grouped(r, True)),
]
IDS = [repr(estimator) for estimator, _ in CASES]


def rewards_of(groups: list[ScoredGroup]) -> Rewards:
    return [[reward.value for reward in group.rewards] for group in groups]


@pytest.mark.parametrize(("estimator", "equation"), CASES, ids=IDS)
@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_those_of_the_equation(estimator, equation, seed: int) -> None:
    groups = [*random_groups(seed), scored_group([0.3, 0.9])]
    want = equation(rewards_of(groups))
    got = estimator.advantages(groups)
    assert [len(a) for a in got] == [4, 4, 4, 4, 2]
    for got_G, want_G in zip(got, want, strict=True):
        np.testing.assert_allclose(got_G, want_G, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("estimator", "equation"), CASES, ids=IDS)
def test_no_groups_have_no_advantages(estimator, equation) -> None:
    assert estimator.advantages([]) == []


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("size", [3, 6, 7])
def test_equal_rewards_have_advantage_exactly_zero(reward: float, size: int) -> None:
    """Also where rounding makes their mean another number."""
    groups = [scored_group([reward] * size), scored_group([0.0, 1.0])]
    for estimator, _ in CASES:
        if estimator != built(ReinforcePlusPlusRl(baseline="batch", clip=0.2)):
            assert not estimator.advantages(groups)[0].any()


def test_reinforce_pp_has_mean_zero_and_deviation_one_over_the_batch() -> None:
    groups = random_groups(3)
    for estimator in (
        built(ReinforcePlusPlusRl(baseline="batch", clip=0.2)),
        built(ReinforcePlusPlusRl(baseline="group", clip=0.2)),
    ):
        advantage_N = np.concatenate(estimator.advantages(groups))
        assert abs(advantage_N.mean()) < 1e-12
        assert abs(advantage_N.std() - 1.0) < 1e-5
    by_batch, by_group = (
        built(ReinforcePlusPlusRl(baseline=kind, clip=0.2)).advantages(groups)[0]
        for kind in ("batch", "group")
    )
    assert by_batch.all()
    assert not by_group.any()


def test_rloo_leaves_a_response_out_of_its_own_baseline() -> None:
    before = built(RlooRl(ratio_cap=5.0)).advantages([scored_group([0.2, 0.5, 1.0])])[0]
    after = built(RlooRl(ratio_cap=5.0)).advantages([scored_group([2.2, 0.5, 1.0])])[0]
    assert after[0] - before[0] == pytest.approx(2.0)
    assert after[1] - before[1] == pytest.approx(-1.0)
    grpo_like = built(DrGrpoRl(clip=0.2), 8)
    drop = grpo_like.advantages([scored_group([2.2, 0.5, 1.0])])[0][0]
    drop -= grpo_like.advantages([scored_group([0.2, 0.5, 1.0])])[0][0]
    assert drop == pytest.approx(2.0 * 2 / 3)


def test_dapo_punishes_only_the_last_tokens_before_the_limit() -> None:
    lengths = list(range(1, MAX_TOKENS + 1))
    group = scored_group([1.0] * MAX_TOKENS, lengths)
    penalty_G = Dapo(DapoRl(overlong_tokens=4), MAX_TOKENS).overlong_penalty(group)
    want = [reference.overlong_penalty(length, MAX_TOKENS, 4) for length in lengths]
    np.testing.assert_allclose(penalty_G, want, rtol=1e-12)
    assert penalty_G.tolist() == [0.0] * 8 + [-0.25, -0.5, -0.75, -1.0]
    assert not Dapo(DapoRl(), MAX_TOKENS).overlong_penalty(group).any()


def test_dapo_prefers_the_shorter_of_two_right_answers_near_the_limit() -> None:
    group = scored_group([1.0, 1.0, 0.0], [5, MAX_TOKENS, 5])
    estimator = Dapo(DapoRl(overlong_tokens=4), MAX_TOKENS)
    advantage_G = estimator.advantages([group])[0]
    np.testing.assert_allclose(
        advantage_G, reference.grouped([[1.0, 0.0, 0.0]], True)[0], rtol=1e-10
    )


def test_dapo_replaces_groups_of_equal_rewards_whatever_their_lengths() -> None:
    equal = scored_group([1.0, 1.0], [2, MAX_TOKENS])
    mixed = scored_group([1.0, 0.0], [2, 2])
    estimator = Dapo(DapoRl(overlong_tokens=4), MAX_TOKENS)
    assert not estimator.is_informative(equal)
    assert estimator.is_informative(mixed)
    assert Dapo(DapoRl(max_refills=0, overlong_tokens=4), MAX_TOKENS).is_informative(equal)


def test_the_others_keep_every_group() -> None:
    for estimator, _ in CASES:
        is_dapo = isinstance(estimator, Dapo)
        assert estimator.is_informative(scored_group([1.0, 1.0])) is not is_dapo


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (ReweightedRl(ratio_cap=4.0, normalize_by_std=False), Reweighted),
        (GrpoRl(clip=0.1), Grpo),
        (DrGrpoRl(clip=0.1), DrGrpo),
        (DapoRl(clip_low=0.1, clip_high=0.3, max_refills=2, overlong_tokens=8), Dapo),
        (RlooRl(ratio_cap=3.0), Rloo),
        (ReinforcePlusPlusRl(baseline="group", clip=0.1), ReinforcePlusPlus),
        (GspoRl(clip_low=0.1, clip_high=0.3), Gspo),
        (CispoRl(clip_low=0.1, clip_high=0.3), Cispo),
        (PpoRl(clip=0.1, dual_clip=2.0), Ppo),
    ],
)
def test_settings_build_their_estimator(
    settings: RlSettings, kind: type[ConfiguredEstimator[Any]]
) -> None:
    estimator = build_estimator(settings, max_tokens=64)
    assert estimator == kind(settings, 64)
    assert estimator.is_bracket_loss is (kind is Reweighted)
    assert not estimator.needs_entropy


def test_every_section_has_its_estimator() -> None:
    assert set(get_args(get_args(AnyRl)[0])) == set(ESTIMATORS)


def test_settings_that_name_no_estimator_are_refused() -> None:
    with pytest.raises(TypeError, match="RlSettings names no RL estimator"):
        build_estimator(RlSettings(), max_tokens=64)
