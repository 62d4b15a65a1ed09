"""Self-distillation: the reverse KL to the policy that sees the demonstration."""

import math
from dataclasses import replace

import numpy as np
import pytest

from coop_rl.algorithm.methods.base import Needs, StepData
from coop_rl.errors import ConfigError
from coop_rl.types import ScoredGroup
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Token, Total, rollouts, softmax
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
    taught,
)


def teachers(table: Table, batch: Batch, group: ScoredGroup) -> list[list[Token]]:
    """The tokens of each response, as the policy behind the teacher's prompt sees them."""
    expert = batch.expert(group)
    ids = expert.teacher_prompt_ids if expert else group.prompt.token_ids
    return rollouts(table, replace(group, prompt=replace(group.prompt, token_ids=ids)))


def equation(table: Table, batch: Batch) -> Total:
    """1/T sum_t rho (log pi - log pi_teacher), rho and the teacher held fixed."""
    total = Total(table)
    num_tokens = sum(len(r.token_ids) for group in batch.groups for r in group.rollouts)
    for group in batch.groups:
        pairs = zip(rollouts(table, group), teachers(table, batch, group), strict=True)
        for student, teacher in pairs:
            for token, taught_token in zip(student, teacher, strict=True):
                gap = math.log(token.p) - math.log(taught_token.p)
                term = token.mismatch * token.ratio * gap / num_tokens
                total.add(token, term, term)
    return total


@pytest.mark.parametrize("num_micros", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(seed: int, num_micros: int) -> None:
    batch = taught(random_batch(seed))
    method, table = method_of("self_distil"), Table(batch, seed)
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    got = evaluate(table, lesson, method.estimator, num_micros=num_micros)
    want = equation(table, batch)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def test_its_mean_over_the_policys_own_samples_is_the_gradient_of_the_reverse_kl() -> None:
    """Every first token once, weighed by its probability, on policy.

    d KL / d z_v = p_v (log p_v - log q_v - KL)
    """
    batch = taught(Batch([scored_group(0, [False] * 2)], [demonstration(0)]))
    (group,) = batch.groups
    method, mean_V, loss = method_of("self_distil"), np.zeros(VOCABULARY), 0.0
    for token in range(VOCABULARY):
        one = tuple(
            replace(r, token_ids=(token,), behaviour_log_probs=(0.0,)) for r in group.rollouts
        )
        table = Table(batch, 7)
        table.old_logits_CV = table.logits_CV
        context = table.contexts((0,), (token,))[0]
        p_V = softmax(table.logits_CV[context])
        on_policy = math.log(p_V[token])
        rows = tuple(replace(rollout, behaviour_log_probs=(on_policy,)) for rollout in one)
        groups = [replace(group, rollouts=rows)]
        lesson = method.compose(StepData(0, groups, batch.demonstrations))
        taken = evaluate(table, lesson, method.estimator)
        mean_V += p_V[token] * taken.gradient_CV[context]
        loss += p_V[token] * taken.loss
        teacher_ids = batch.demonstrations[0].teacher_prompt_ids
        q_V = softmax(table.logits_CV[table.contexts(teacher_ids, (token,))[0]])
    gap_V = np.log(p_V) - np.log(q_V)
    kl = float(np.dot(p_V, gap_V))
    assert loss == pytest.approx(kl)
    np.testing.assert_allclose(mean_V, np.array(p_V) * (gap_V - kl), rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_teacher_is_not_learned(seed: int) -> None:
    batch = taught(random_batch(seed))
    method, table = method_of("self_distil"), Table(batch, seed)
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    gradient_CV = evaluate(table, lesson, method.estimator).gradient_CV
    with_expert = [group for group in batch.groups if batch.expert(group)]
    rows = [t.context for g in with_expert for row in teachers(table, batch, g) for t in row]
    assert not gradient_CV[rows].any()
    assert gradient_CV.any()


def test_prompts_without_a_demonstration_and_rewards_teach_nothing() -> None:
    batch = random_batch(0)
    method, table = method_of("self_distil"), Table(batch, 0)
    lesson = method.compose(StepData(0, batch.groups))
    assert {sample.advantage for sample in lesson.samples} == {0.0}
    taken = evaluate(table, lesson, method.estimator)
    assert taken.loss == 0.0
    assert not taken.gradient_CV.any()


def test_rollouts_and_matching_demonstrations_are_needed_at_every_step() -> None:
    assert {method_of("self_distil").needs(k) for k in range(3)} == {Needs(True, "matching")}


@pytest.mark.parametrize("template", ["{prompt}", "{demonstration}"])
def test_a_template_without_one_of_its_places_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"method.*template must contain|must contain \{"):
        config_of("self_distil", f'template="{template}"')
