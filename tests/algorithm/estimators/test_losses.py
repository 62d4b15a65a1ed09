"""Every estimator's loss and gradient against plain loops, differences, and any split."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_rl.algorithm.estimators import RlEstimator, RolloutCounts
from coop_rl.algorithm.losses import rl_loss
from coop_rl.config.estimators import (
    CispoRl,
    DapoRl,
    DrGrpoRl,
    GrpoRl,
    GspoRl,
    PpoRl,
    ReinforcePlusPlusRl,
    ReweightedRl,
    RlooRl,
)
from tests.algorithm.estimators import reference
from tests.algorithm.estimators.scenes import (
    ANCHOR,
    MAX_TOKENS,
    Scene,
    built,
    random_groups,
    rollout_tokens,
    row_gradient_norms,
    scene_of,
    scored_group,
    take_loss,
)

SEEDS = range(8)
CAP = 1.5
NO_CAP = 1e300
CASES: dict[str, tuple[RlEstimator, Callable[[Scene, np.ndarray], reference.Loss]]] = {
    "reweighted": (built(ReweightedRl(normalize_by_std=True, ratio_cap=CAP)), reference.reweighted),
    "grpo": (built(GrpoRl(clip=0.2)), reference.grpo),
    "dr_grpo": (built(DrGrpoRl(clip=0.2)), reference.dr_grpo),
    "dapo": (built(DapoRl(max_refills=0, overlong_tokens=4)), reference.dapo),
    "rloo": (built(RlooRl(ratio_cap=CAP)), reference.rloo),
    "reinforce_pp": (
        built(ReinforcePlusPlusRl(baseline="batch", clip=0.2)),
        reference.reinforce_pp,
    ),
    "reinforce_pp_group": (
        built(ReinforcePlusPlusRl(baseline="group", clip=0.2)),
        reference.reinforce_pp,
    ),
    "gspo": (built(GspoRl(clip_low=0.05, clip_high=0.06)), reference.gspo),
    "cispo": (built(CispoRl(clip_low=None, clip_high=0.3)), reference.cispo),
    "cispo_low": (built(CispoRl(clip_low=0.25, clip_high=0.3)), reference.cispo_low),
    "ppo": (built(PpoRl(clip=0.2, dual_clip=1.5)), reference.ppo),
}
DIFFERENTIABLE = ("grpo", "dr_grpo", "dapo", "reinforce_pp", "gspo", "ppo")


def case_scene(name: str, seed: int) -> Scene:
    return scene_of(seed, random_groups(seed), CASES[name][0])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_gradient_and_clip_count_are_those_of_the_equations(name: str, seed: int) -> None:
    estimator, equation = CASES[name]
    scene = case_scene(name, seed)
    got = take_loss(estimator, scene)
    loss, slope_T, count = equation(scene, scene.logits_TV)
    np.testing.assert_allclose(got.loss, loss, rtol=1e-10)
    np.testing.assert_allclose(
        got.gradient_TV, reference.logit_gradient(scene, slope_T), rtol=1e-10, atol=1e-16
    )
    assert got.num_clipped == count


def test_the_scenes_have_ratios_on_both_sides_with_both_signs() -> None:
    seen = set()
    for seed in SEEDS:
        scene = case_scene("grpo", seed)
        ratio_T = np.exp(scene.score() - scene.old_log_prob_T)
        for ratio, row in zip(ratio_T, scene.row_T, strict=True):
            side = int(ratio > 1.5) - int(ratio < 0.6)
            seen.add((side, int(np.sign(scene.advantage_B[row]))))
        assert {1, MAX_TOKENS} <= set(scene.length_B)
        assert (scene.mismatch_T == 1.2).any()
        assert (scene.mismatch_T < 0.9).any()
    assert seen >= {(side, sign) for side in (-1, 0, 1) for sign in (-1, 0, 1)}


@pytest.mark.parametrize("name", CASES)
def test_clips_act_in_the_scenes_but_not_everywhere(name: str) -> None:
    clipped = [take_loss(CASES[name][0], case_scene(name, seed)).num_clipped for seed in SEEDS]
    assert min(clipped) > 0
    assert all(n < case_scene(name, s).counts.tokens for s, n in zip(SEEDS, clipped, strict=True))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_is_that_of_differences(name: str) -> None:
    estimator, equation = CASES[name]
    scene = case_scene(name, 3)
    want_TV = reference.central_differences(
        lambda logits_TV: equation(scene, logits_TV)[0], scene.logits_TV
    )
    got_TV = take_loss(estimator, scene).gradient_TV
    assert np.abs(got_TV - want_TV).max() < 1e-8 * np.abs(want_TV).max() + 1e-10


def uncapped_objective(name: str, scene: Scene, logits_TV: np.ndarray) -> float:
    """The importance-weighted mean of A, whose gradient the stop-gradient losses are to have."""
    log_prob_T = scene.score(logits_TV)
    tokens, samples = scene.counts.tokens, scene.counts.samples
    if name == "cispo":
        ratio_T = np.exp(log_prob_T - scene.old_log_prob_T)
        return -float((scene.mismatch_T * ratio_T * scene.advantage_B[scene.row_T]).sum()) / tokens
    from_T = scene.behaviour_log_prob_T if name == "reweighted" else scene.old_log_prob_T
    total = 0.0
    for row, advantage in enumerate(scene.advantage_B):
        total += advantage * math.exp((log_prob_T - from_T)[scene.row_T == row].sum())
    return -total / (tokens if name == "reweighted" else samples)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("reweighted", built(ReweightedRl(normalize_by_std=True, ratio_cap=NO_CAP))),
        ("rloo", built(RlooRl(ratio_cap=NO_CAP))),
        ("cispo", built(CispoRl(clip_low=None, clip_high=NO_CAP))),
    ],
)
def test_uncapped_weights_give_the_gradient_of_the_weighted_mean(
    name: str, estimator: RlEstimator
) -> None:
    scene = scene_of(5, random_groups(5), estimator)
    if name == "rloo":
        scene = replace(scene, mismatch_T=np.ones_like(scene.mismatch_T))
    want_TV = reference.central_differences(
        lambda logits_TV: uncapped_objective(name, scene, logits_TV), scene.logits_TV
    )
    got_TV = take_loss(estimator, scene).gradient_TV
    assert np.abs(got_TV - want_TV).max() < 1e-8 * np.abs(want_TV).max() + 1e-10


@pytest.mark.parametrize("name", CASES)
def test_any_split_and_order_of_rows_gives_the_same(name: str) -> None:
    estimator = CASES[name][0]
    rng = np.random.default_rng(4)
    for seed in SEEDS[:3]:
        scene = case_scene(name, seed)
        whole = take_loss(estimator, scene)
        rows = rng.permutation(len(scene.length_B)).tolist()
        cuts = sorted(rng.choice(np.arange(1, len(rows)), size=4, replace=False).tolist())
        splits = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
        parts = take_loss(estimator, scene, [*splits, [ANCHOR]])
        mixed = take_loss(estimator, scene, [[*rows[:5], ANCHOR, *rows[5:]]])
        for other in (parts, mixed):
            assert abs(other.loss - whole.loss) < 1e-12 * abs(whole.loss) + 1e-15
            worst = np.abs(other.gradient_TV - whole.gradient_TV).max()
            assert worst < 1e-12 * np.abs(whole.gradient_TV).max()
            assert other.num_clipped == whole.num_clipped


@pytest.mark.parametrize("name", CASES)
def test_an_anchor_row_adds_nothing_but_can_be_differentiated(name: str) -> None:
    scene = case_scene(name, 0)
    taken = take_loss(CASES[name][0], scene, [[ANCHOR]])
    assert taken.loss == 0.0
    assert not taken.gradient_TV.any()
    assert taken.num_clipped == 0


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("reinforce_pp", "dapo")])
def test_equal_rewards_give_exactly_no_gradient(name: str) -> None:
    scene = case_scene(name, 1)
    norm_B = row_gradient_norms(scene, take_loss(CASES[name][0], scene).gradient_TV)
    assert not norm_B[:4].any()
    assert norm_B[4:].any()


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_equal_rewards_and_lengths_gives_exactly_no_gradient(name: str) -> None:
    scene = scene_of(0, [scored_group([0.1] * 3), scored_group([0.1] * 3)], CASES[name][0])
    taken = take_loss(CASES[name][0], scene)
    assert not taken.gradient_TV.any()
    assert taken.loss == 0.0


PER_TOKEN = ("reweighted", "dapo", "reinforce_pp", "cispo", "ppo")


@pytest.mark.parametrize("name", CASES)
def test_on_policy_the_gradient_is_the_plain_policy_gradient(name: str) -> None:
    scene = case_scene(name, 2).on_policy()
    tokens, samples = scene.counts.tokens, scene.counts.samples
    if name.startswith(PER_TOKEN):
        divisor_T = np.full(tokens, float(tokens))
    elif name in ("grpo", "gspo"):
        divisor_T = samples * scene.length_B[scene.row_T].astype(float)
    else:
        divisor_T = np.full(tokens, float(samples * (MAX_TOKENS if name == "dr_grpo" else 1)))
    want_TV = reference.logit_gradient(scene, -scene.advantage_B[scene.row_T] / divisor_T)
    taken = take_loss(CASES[name][0], scene)
    np.testing.assert_allclose(taken.gradient_TV, want_TV, rtol=1e-12, atol=1e-16)
    assert taken.num_clipped == 0


def test_reweighted_is_rl_loss_bit_for_bit_in_fp32() -> None:
    estimator = built(ReweightedRl(normalize_by_std=True, ratio_cap=CAP))
    scene = scene_of(6, random_groups(6), estimator)
    taken = []
    for is_product in (True, False):
        log_prob_T = torch.tensor(scene.score(), dtype=torch.float32, requires_grad=True)
        tokens = rollout_tokens(scene, log_prob_T, range(16))
        if is_product:
            loss = estimator.loss(tokens, RolloutCounts(tokens=77, samples=9)).loss
        else:
            loss, _ = rl_loss(
                tokens.log_prob_T,
                tokens.behaviour_log_prob_T,
                tokens.row_T,
                tokens.advantage_B,
                16,
                77,
                CAP,
            )
        loss.backward()
        taken.append((loss.detach(), log_prob_T.grad))
    assert torch.equal(taken[0][0], taken[1][0])
    assert taken[0][1] is not None
    assert taken[1][1] is not None
    assert torch.equal(taken[0][1], taken[1][1])
