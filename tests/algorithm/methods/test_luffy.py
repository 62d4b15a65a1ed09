"""LUFFY: the expert trace is one of the group, and its gradient is shaped."""

import numpy as np
import pytest

from coop_rl.algorithm.methods.base import Needs, StepData
from coop_rl.types import Demonstration, ScoredGroup
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Token, Total, mean, rollouts, trace
from tests.algorithm.methods.scenes import (
    MAX_TOKENS,
    SEEDS,
    Batch,
    Table,
    config_of,
    demonstration,
    method_of,
    random_batch,
    scored_group,
)

ALPHA = 0.05


def equation(table: Table, batch: Batch, alpha: float) -> Total:
    """- 1/(N L) ( sum_on r A + sum_expert f(pi) A_e ) - alpha H, H by each part's share of N."""
    experts = [batch.expert(group) for group in batch.groups]
    num_rollouts = sum(len(group.rollouts) for group in batch.groups)
    num_experts = sum(expert is not None for expert in experts)
    num_rows = num_rollouts + num_experts
    total = Total(table)
    on_policy: list[Token] = []
    off_policy: list[Token] = []
    for group, expert in zip(batch.groups, experts, strict=True):
        rewards = [reward.value for reward in group.rewards] + [1.0] * (expert is not None)
        baseline = mean(rewards)
        for tokens, reward in zip(rollouts(table, group), group.rewards, strict=True):
            on_policy += tokens
            for token in tokens:
                weight = token.mismatch * (reward.value - baseline)
                total.add_ratio(token, -weight / (num_rows * MAX_TOKENS))
        if expert is not None:
            tokens = trace(table, expert)
            off_policy += tokens
            for token in tokens:
                total.add_shaped(token, -(1.0 - baseline) / (num_rows * MAX_TOKENS))
    total.add_mean_entropy(on_policy, -alpha * num_rollouts / num_rows)
    if off_policy:
        total.add_mean_entropy(off_policy, -alpha * num_experts / num_rows)
    return total


@pytest.mark.parametrize("num_micros", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(seed: int, num_micros: int) -> None:
    batch = random_batch(seed)
    table = Table(batch, seed)
    config = config_of("luffy", f"entropy_weight={ALPHA}")
    method = method_of("luffy", f"entropy_weight={ALPHA}")
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    alpha = config.method.rl_settings.entropy_weight
    got = evaluate(table, lesson, method.estimator, alpha, num_micros)
    want = equation(table, batch, ALPHA)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def one_group(rights: list[bool]) -> tuple[Batch, Table]:
    batch = Batch([scored_group(0, rights)], [demonstration(0)])
    return batch, Table(batch, 0)


def test_where_all_rollouts_are_right_the_expert_has_no_advantage_and_no_gradient() -> None:
    batch, table = one_group([True] * 7)
    method = method_of("luffy", "entropy_weight=0")
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    assert [d.weight for d in lesson.demonstrations] == [0.0]
    assert {sample.advantage for sample in lesson.samples} == {0.0}
    assert not evaluate(table, lesson, method.estimator).gradient_CV.any()


def test_where_all_are_wrong_the_expert_alone_is_learned_from_and_rollouts_are_unlearned() -> None:
    batch, _ = one_group([False] * 7)
    lesson = method_of("luffy").compose(StepData(0, batch.groups, batch.demonstrations))
    assert lesson.demonstrations[0].weight == pytest.approx(7 / 8)
    assert [s.advantage for s in lesson.samples] == pytest.approx([-1 / 8] * 7)


def test_advantages_of_a_group_and_its_expert_sum_to_zero() -> None:
    rights = [True, False, False, True, False]
    batch, _ = one_group(rights)
    lesson = method_of("luffy").compose(StepData(0, batch.groups, batch.demonstrations))
    total = lesson.demonstrations[0].weight + sum(s.advantage for s in lesson.samples)
    assert total == pytest.approx(0.0, abs=1e-12)
    assert lesson.demonstrations[0].weight == pytest.approx(1 - 3 / 6)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_demonstrations_groups_are_plain(seed: int) -> None:
    batch = random_batch(seed)
    method = method_of("luffy")
    lesson = method.compose(StepData(0, batch.groups))
    plain = np.concatenate(method.estimator.advantages(batch.groups))
    assert [s.advantage for s in lesson.samples] == plain.tolist()
    assert not lesson.demonstrations
    assert (lesson.objective.rl_weight, lesson.objective.sft_weight) == (1.0, 0.0)


def test_a_prompt_drawn_twice_has_its_expert_in_both_groups() -> None:
    groups: list[ScoredGroup] = [scored_group(0, [True] * 3), scored_group(0, [False] * 3, seed=1)]
    shown: list[Demonstration] = [demonstration(0), demonstration(0)]
    lesson = method_of("luffy").compose(StepData(0, groups, shown))
    assert [d.weight for d in lesson.demonstrations] == pytest.approx([0.0, 3 / 4])


def test_rollouts_and_matching_demonstrations_are_needed_at_every_step() -> None:
    assert {method_of("luffy").needs(k) for k in range(3)} == {Needs(True, "matching")}
