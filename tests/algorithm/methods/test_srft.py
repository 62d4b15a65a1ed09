"""SRFT: four terms at once, weighed by the policy's entropy."""

import math

import numpy as np
import pytest
import torch

from coop_rl.algorithm.estimators import RolloutCounts, RolloutTokens
from coop_rl.algorithm.methods.base import Needs, StepData
from coop_rl.types import DemonstrationTerm
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Token, Total, deviation, mean, rollouts, trace
from tests.algorithm.methods.scenes import (
    SEEDS,
    VOCABULARY,
    Batch,
    Table,
    config_of,
    demonstration,
    method_of,
    random_batch,
    scored_group,
)


def equation(table: Table, batch: Batch) -> Total:
    """0.5 e^-H NLL - mean A_e f(pi) - 0.1 e^H mean_right log pi + mean_wrong log pi."""
    total = Total(table)
    expert_tokens: list[tuple[Token, float]] = []
    rollout_tokens: list[tuple[Token, bool]] = []
    for group in batch.groups:
        expert = batch.expert(group)
        if expert is not None:
            rewards = [reward.value for reward in group.rewards] + [1.0]
            advantage = (1.0 - mean(rewards)) / (deviation(rewards) + 1e-6)
            expert_tokens += [(token, advantage) for token in trace(table, expert)]
        for tokens, reward in zip(rollouts(table, group), group.rewards, strict=True):
            rollout_tokens += [(token, reward.is_correct) for token in tokens]
    if expert_tokens:
        sure = math.exp(-mean(token.entropy for token, _ in expert_tokens))
        for token, advantage in expert_tokens:
            total.add_log_prob(token, -0.5 * sure / len(expert_tokens))
            total.add_shaped(token, -advantage / len(expert_tokens))
    doubt = math.exp(mean(token.entropy for token, _ in rollout_tokens))
    for token, is_right in rollout_tokens:
        weight = -0.1 * doubt if is_right else 1.0
        total.add_log_prob(token, token.mismatch * weight / len(rollout_tokens))
    return total


@pytest.mark.parametrize("num_micros", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equations(seed: int, num_micros: int) -> None:
    batch = random_batch(seed)
    table = Table(batch, seed)
    method = method_of("srft")
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    bonus = config_of("srft").method.rl_settings.entropy_weight
    got = evaluate(table, lesson, method.estimator, bonus, num_micros)
    want = equation(table, batch)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def test_without_demonstrations_only_the_rollouts_terms_remain() -> None:
    batch = Batch(random_batch(0).groups, ())
    table, method = Table(batch, 0), method_of("srft")
    got = evaluate(table, method.compose(StepData(0, batch.groups)), method.estimator)
    want = equation(table, batch)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def rollout_loss(entropy: float, sign: float, right_weight: float = 0.1) -> float:
    """The on-policy loss of two tokens of probability 1/e, all right or all wrong."""
    log_prob_T = torch.full((2,), -1.0, dtype=torch.float64)
    tokens = RolloutTokens(
        log_prob_T=log_prob_T,
        old_log_prob_T=log_prob_T,
        behaviour_log_prob_T=log_prob_T,
        mismatch_T=torch.ones(2, dtype=torch.float64),
        row_T=torch.zeros(2, dtype=torch.int64),
        advantage_B=torch.tensor([sign], dtype=torch.float64),
        length_B=torch.tensor([2]),
    )
    estimator = method_of("srft", f"right_weight={right_weight}").estimator
    return float(estimator.loss(tokens, RolloutCounts(tokens=2, samples=1, entropy=entropy)).loss)


def test_right_rollouts_weigh_a_tenth_of_exp_h_and_wrong_ones_one_whatever_h() -> None:
    for entropy in (0.0, 0.3, 1.0, 2.5):
        assert rollout_loss(entropy, 1.0) == pytest.approx(0.1 * math.exp(entropy), rel=1e-12)
        assert rollout_loss(entropy, -1.0) == -1.0
    assert rollout_loss(1.0, 1.0, right_weight=0.7) == pytest.approx(0.7 * math.e, rel=1e-12)


def demonstration_loss_at(spread: float) -> tuple[float, float]:
    """(w_SFT, H): the NLL term's weight where all rollouts are right, so that A_e is 0."""
    batch = Batch([scored_group(0, [True] * 4)], [demonstration(0)])
    table, method = Table(batch, 3, spread), method_of("srft", "right_weight=0")
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    assert [d.weight for d in lesson.demonstrations] == [0.0]
    tokens = trace(table, batch.demonstrations[0])
    nll = mean(-math.log(token.p) for token in tokens)
    loss = evaluate(table, lesson, method.estimator).loss
    return loss / nll, mean(token.entropy for token in tokens)


def test_the_nll_weighs_half_of_exp_minus_h_so_it_falls_as_entropy_rises() -> None:
    weights = {}
    for spread in (0.0, 1.0, 3.0):
        weight, entropy = demonstration_loss_at(spread)
        assert weight == pytest.approx(0.5 * math.exp(-entropy), rel=1e-10)
        weights[spread] = weight
    assert weights[0.0] == pytest.approx(0.5 / VOCABULARY, rel=1e-10)
    assert weights[0.0] < weights[1.0] < weights[3.0]


def test_terms_and_needs_are_the_same_at_every_step() -> None:
    method, batch = method_of("srft"), random_batch(1)
    for step in range(3):
        assert method.needs(step) == Needs(True, "matching")
        objective = method.compose(StepData(step, batch.groups, batch.demonstrations)).objective
        assert (objective.rl_weight, objective.sft_weight) == (1.0, 1.0)
        assert objective.terms[0] == DemonstrationTerm(
            "nll", 0.5, is_entropy_scaled=True, is_weighted=False
        )
    assert method.estimator.needs_entropy
