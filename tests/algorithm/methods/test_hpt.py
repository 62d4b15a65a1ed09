"""HPT: a prompt is taught by its demonstration or reinforced, never both."""

import numpy as np
import pytest

from coop_rl.algorithm.methods.base import Needs, StepData
from coop_rl.types import Lesson, Objective
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Token, Total, mean, rollouts, trace
from tests.algorithm.methods.scenes import (
    MAX_TOKENS,
    SEEDS,
    Batch,
    Table,
    demonstration,
    method_of,
    random_batch,
    scored_group,
)

CLIP = 0.2
COEF = 0.3
ENTROPY = 1e-3
"""In the authors' scripts (actor.entropy_coeff)."""


def equation(table: Table, batch: Batch, gate: int) -> Total:
    """Dr. GRPO and entropy bonus over kept groups + coef NLL over the others' demonstrations."""
    total = Total(table)
    kept, taught = [], list[Token]()
    for group in batch.groups:
        expert = batch.expert(group)
        if expert is not None and sum(reward.is_correct for reward in group.rewards) <= gate:
            taught += trace(table, expert)
        else:
            kept.append(group)
    num_samples = sum(len(group.rollouts) for group in kept)
    for group in kept:
        baseline = mean(reward.value for reward in group.rewards)
        for tokens, reward in zip(rollouts(table, group), group.rewards, strict=True):
            advantage = reward.value - baseline
            for token in tokens:
                limited = min(max(token.ratio, 1 - CLIP), 1 + CLIP)
                weight = -token.mismatch * advantage / (num_samples * MAX_TOKENS)
                if limited * advantage < token.ratio * advantage:
                    total.add(token, weight * limited, 0.0)
                else:
                    total.add_ratio(token, weight)
    sampled = [token for group in kept for tokens in rollouts(table, group) for token in tokens]
    if sampled:
        total.add_mean_entropy(sampled, -ENTROPY)
    for token in taught:
        total.add_log_prob(token, -COEF / len(taught))
    return total


@pytest.mark.parametrize("num_micros", [1, 3])
@pytest.mark.parametrize("gate", [0, 2, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(seed: int, gate: int, num_micros: int) -> None:
    batch = random_batch(seed)
    table = Table(batch, seed)
    method = method_of("hpt", f"gate={gate}", f"coef={COEF}")
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    bonus = method.section.rl_settings.entropy_weight
    got = evaluate(table, lesson, method.estimator, num_micros=num_micros, entropy_weight=bonus)
    want = equation(table, batch, gate)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def compose(num_right: int, gate: int) -> tuple[Batch, Lesson]:
    """One prompt with `num_right` of 4 right, beside one that is always reinforced."""
    rights = [i < num_right for i in range(4)]
    groups = [scored_group(0, rights), scored_group(1, [True, True, True, False])]
    batch = Batch(groups, [demonstration(0)])
    lesson = method_of("hpt", f"gate={gate}").compose(StepData(0, groups, batch.demonstrations))
    return batch, lesson


@pytest.mark.parametrize("gate", [0, 1, 3])
@pytest.mark.parametrize("num_right", range(5))
def test_the_gate_decides_between_rollouts_and_demonstration(num_right: int, gate: int) -> None:
    batch, lesson = compose(num_right, gate)
    reinforced = {sample.prompt_ids for sample in lesson.samples}
    if num_right <= gate:
        assert reinforced == {(1,)}
        assert list(lesson.demonstrations) == list(batch.demonstrations)
    else:
        assert reinforced == {(0,), (1,)}
        assert not lesson.demonstrations


@pytest.mark.parametrize("is_failed", [True, False])
def test_the_side_not_chosen_has_no_gradient(is_failed: bool) -> None:
    batch, lesson = compose(0 if is_failed else 1, gate=0)
    table, method = Table(batch, 0), method_of("hpt")
    gradient_CV = evaluate(table, lesson, method.estimator).gradient_CV
    (group, _), (expert,) = batch.groups, batch.demonstrations
    sampled = {c for r in group.rollouts for c in table.contexts((0,), r.token_ids)}
    shown = set(table.contexts(expert.prompt_ids, expert.response_ids))
    rollouts_alone, expert_alone = sorted(sampled - shown), sorted(shown - sampled)
    assert bool(gradient_CV[rollouts_alone].any()) == (not is_failed)
    assert bool(gradient_CV[expert_alone].any()) == is_failed


def test_a_failed_prompt_without_a_demonstration_keeps_its_rollouts() -> None:
    groups = [scored_group(0, [False] * 4)]
    lesson = method_of("hpt").compose(StepData(0, groups))
    assert len(lesson.samples) == 4
    assert not lesson.demonstrations


def test_a_prompt_drawn_twice_is_judged_each_time() -> None:
    groups = [scored_group(0, [False] * 3), scored_group(0, [True, False, True], seed=1)]
    lesson = method_of("hpt").compose(StepData(0, groups, [demonstration(0), demonstration(0)]))
    assert [s.response_ids for s in lesson.samples] == [r.token_ids for r in groups[1].rollouts]
    assert len(lesson.demonstrations) == 1


def test_what_counts_is_being_right_not_the_reward() -> None:
    groups = [scored_group(0, [False, False], values=[0.9, 0.8])]
    lesson = method_of("hpt").compose(StepData(0, groups, [demonstration(0)]))
    assert not lesson.samples
    assert len(lesson.demonstrations) == 1


def test_weights_and_needs_are_the_same_at_every_step() -> None:
    method = method_of("hpt", "coef=0.3")
    assert {method.objective(k) for k in range(3)} == {Objective(1.0, 0.3)}
    assert {method.needs(k) for k in range(3)} == {Needs(True, "matching")}
