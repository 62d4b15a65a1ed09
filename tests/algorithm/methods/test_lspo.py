"""LSPO: right second tries stand for wrong responses, weighted back; theta sees nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from coop_rl.algorithm.methods.base import Needs, StepData
from coop_rl.errors import ConfigError
from coop_rl.types import ScoredGroup, SecondTries
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Total, deviation, mean, rollouts
from tests.algorithm.methods.scenes import (
    SEEDS,
    Batch,
    Table,
    config_of,
    method_of,
    random_batch,
    scored_group,
)

CLIP = 0.2
FAILED = 1
"""The group of `random_batch` whose responses are all wrong and whose prompt has an expert."""


def tried_again(batch: Batch, rights: tuple[bool, ...]) -> SecondTries:
    """Second tries at the failed prompt, of other tokens than the first ones."""
    expert = batch.expert(batch.groups[FAILED])
    assert expert is not None
    return SecondTries((expert,), (scored_group(FAILED, rights, seed=99),))


def expected_group(first: ScoredGroup, second: ScoredGroup) -> ScoredGroup:
    """The right second tries, then what is left of the group's own."""
    right = [i for i, reward in enumerate(second.rewards) if reward.is_correct]
    return replace(
        first,
        rollouts=tuple(second.rollouts[i] for i in right) + first.rollouts[len(right) :],
        rewards=tuple(second.rewards[i] for i in right) + first.rewards[len(right) :],
    )


def equation(table: Table, batch: Batch, second: SecondTries) -> Total:
    """GRPO's - 1/(N |y|) sum_t min(m, cap) min(r A, clip(r) A), m = pi_old / pi_(theta, w)."""
    total = Total(table)
    groups = list(batch.groups)
    groups[FAILED] = expected_group(groups[FAILED], second.groups[0])
    num_rows = sum(len(group.rollouts) for group in groups)
    for group in groups:
        rewards = [reward.value for reward in group.rewards]
        for tokens, reward in zip(rollouts(table, group), rewards, strict=True):
            advantage = (reward - mean(rewards)) / (deviation(rewards) + 1e-6)
            for token in tokens:
                plain = token.ratio * advantage
                clipped = min(max(token.ratio, 1 - CLIP), 1 + CLIP) * advantage
                factor = -token.mismatch / (num_rows * len(tokens))
                slope = factor * plain if plain <= clipped else 0.0
                total.add(token, factor * min(plain, clipped), slope)
    return total


@pytest.mark.parametrize("rights", [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(seed: int, rights: tuple[bool, ...]) -> None:
    batch = random_batch(seed)
    second = tried_again(batch, rights)
    method = method_of("lspo", f"rl.clip={CLIP}")
    table = Table(Batch([*batch.groups, *second.groups], batch.demonstrations), seed)
    lesson = method.compose(StepData(0, batch.groups, second=second))
    assert len(lesson.samples) == sum(len(group.rollouts) for group in batch.groups)
    assert not lesson.demonstrations
    assert not lesson.scaffold
    got = evaluate(table, lesson, method.estimator)
    want = equation(table, batch, second)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def test_it_asks_for_rollouts_alone() -> None:
    method = method_of("lspo")
    assert method.has_scaffold
    assert method.needs(3) == Needs(rollouts=True, demonstrations="none")


def test_a_mended_group_teaches_and_a_failed_one_does_not() -> None:
    batch, method = random_batch(0), method_of("lspo")
    for rights, has_advantage in (((True, False), True), ((False, False), False)):
        lesson = method.compose(StepData(0, batch.groups, second=tried_again(batch, rights)))
        size = len(batch.groups[FAILED].rollouts)
        samples = lesson.samples[FAILED * size : (FAILED + 1) * size]
        assert any(sample.advantage != 0 for sample in samples) == has_advantage


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rl={kind: dapo}", "dapo replaces the groups that all failed, which method.kind lspo"),
        ("rl={kind: grpo, mismatch_cap: null}", "leaves out the weight back from the scaffold"),
    ],
)
def test_what_it_cannot_go_with_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("lspo", override)
    config_of("lspo", "rl={kind: reweighted, mismatch_cap: null}")
