"""Prefix: prompts that nobody solved get the start of a demonstration, which nothing trains on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from coop_rl.algorithm.methods import Method
from coop_rl.algorithm.methods.base import StepData
from coop_rl.errors import ConfigError
from coop_rl.types import Demonstration, Given, ScoredGroup
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Total, deviation, mean, rollouts, trace
from tests.algorithm.methods.scenes import (
    SEEDS,
    Batch,
    Table,
    config_of,
    demonstration,
    method_of,
    random_batch,
    scored_group,
)

CLIP = 0.2


def prefix(*overrides: str) -> Method:
    return method_of("prefix", *overrides)


def with_given(group: ScoredGroup, given: Given) -> ScoredGroup:
    ids = given.get(group.prompt.id, ())
    return replace(group, prompt=replace(group.prompt, given_ids=ids))


def begun(batch: Batch) -> Batch:
    """The same batch, where the responses to p1 (all wrong) begin with a part of its expert's."""
    given = {d.id: d.response_ids[:1] for d in batch.demonstrations if d.id == "p1"}
    return Batch([with_given(group, given) for group in batch.groups], batch.demonstrations)


def equation(table: Table, batch: Batch) -> Total:
    """- 1/(N |y'|) sum_t min(r A, clip(r) A), over the tokens that were sampled."""
    total = Total(table)
    num_rows = sum(len(group.rollouts) for group in batch.groups)
    for group in batch.groups:
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


@pytest.mark.parametrize("num_micros", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(seed: int, num_micros: int) -> None:
    batch = begun(random_batch(seed))
    method, table = prefix(f"rl.clip={CLIP}"), Table(batch, seed)
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    got = evaluate(table, lesson, method.estimator, num_micros=num_micros)
    want = equation(table, batch)
    assert got.loss == pytest.approx(want.loss, rel=1e-10)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("seed", SEEDS)
def test_given_tokens_are_context_that_nothing_is_learned_at(seed: int) -> None:
    batch = begun(random_batch(seed))
    rewards = [scored_group(1, [True, False, False, True]).rewards]  # else its advantages are 0
    groups = [replace(g, rewards=rewards[0]) if g.prompt.given_ids else g for g in batch.groups]
    method, table = prefix(), Table(batch, seed)
    lesson = method.compose(StepData(0, groups, batch.demonstrations))
    assert not lesson.demonstrations
    expert = next(d for d in batch.demonstrations if d.id == "p1")
    of_it = [s for s in lesson.samples if s.prompt_ids == (1, expert.response_ids[0])]
    responses = [r.token_ids for g in groups if g.prompt.given_ids for r in g.rollouts]
    assert [sample.response_ids for sample in of_it] == responses
    gradient_CV = evaluate(table, lesson, method.estimator).gradient_CV
    at_given = [token.context for d in batch.demonstrations for token in trace(table, d)]
    sampled = [t.context for g in groups for row in rollouts(table, g) for t in row]
    assert not gradient_CV[sorted(set(at_given) - set(sampled))].any()
    first = [row[0].context for g in groups if g.prompt.given_ids for row in rollouts(table, g)]
    assert gradient_CV[first].any()


def step(
    method: Method, k: int, rights: Mapping[int, Sequence[bool]], experts: Sequence[Demonstration]
) -> Given:
    """Let prompts come up at step k; return what their responses began with."""
    given = method.needs(k).given
    groups = [with_given(scored_group(i, right), given) for i, right in rights.items()]
    method.compose(StepData(k, groups, experts))
    return {g.prompt.id: g.prompt.given_ids for g in groups if g.prompt.given_ids}


WRONG, RIGHT = [False] * 3, [True, False, False]


def test_a_failed_prompt_is_given_a_start_once_and_then_tried_alone_again() -> None:
    method, expert = prefix("anneal_steps=1000000"), demonstration(0, length=8)
    start = {"p0": expert.response_ids[:3]}  # a bit less than half of 8
    method_steps = [WRONG, WRONG, WRONG, RIGHT, RIGHT, WRONG, RIGHT]
    seen = [step(method, k, {0: right}, [expert]) for k, right in enumerate(method_steps, 1)]
    assert seen == [{}, start, {}, start, {}, {}, start]


def test_solved_prompts_and_those_without_a_demonstration_are_never_given_anything() -> None:
    method = prefix()
    for k in range(4):
        assert step(method, k, {0: RIGHT, 1: WRONG}, [demonstration(0)]) == {}


def test_a_prompt_that_does_not_come_up_is_remembered() -> None:
    method, expert = prefix("anneal_steps=1000000"), demonstration(0, length=8)
    step(method, 0, {0: WRONG}, [expert])
    step(method, 1, {1: RIGHT}, [])
    assert step(method, 2, {0: RIGHT}, [expert]).keys() == {"p0"}


def test_the_share_falls_linearly_to_nothing_and_never_holds_the_end() -> None:
    method, expert = prefix("share=0.9", "anneal_steps=10"), demonstration(0, length=10)
    step(method, 0, {0: WRONG}, [expert])
    lengths = [len(method.needs(k).given["p0"]) for k in range(12)]
    assert lengths == np.floor([9 * max(0.0, 1 - k / 10) + 1e-9 for k in range(12)]).tolist()
    assert max(lengths) < len(expert.response_ids)


def test_without_anneal_steps_the_share_lasts_as_long_as_the_run() -> None:
    method, num_steps = prefix("share=0.5"), config_of("prefix").run.num_steps
    step(method, 0, {0: WRONG}, [demonstration(0, length=9)])
    assert len(method.needs(num_steps // 2 - 1).given["p0"]) == 2
    assert not method.needs(num_steps).given["p0"]


def test_a_run_resumed_from_json_at_any_step_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    experts = [demonstration(i, length=8) for i in range(6)]
    plan = [
        {int(i): (WRONG, RIGHT)[rng.integers(2)] for i in rng.choice(6, 3, replace=False)}
        for _ in range(20)
    ]

    def run(stop: int) -> list[Given]:
        method, seen = prefix("anneal_steps=40"), []
        for k, rights in enumerate(plan):
            if k == stop:
                state = json.loads(json.dumps(method.state()))
                method = prefix("anneal_steps=40")
                method.begin(10, state)
            seen.append(step(method, k, rights, experts))
        return seen

    whole = run(-1)
    assert any(whole)
    assert all(run(stop) == whole for stop in range(len(plan)))


def test_an_estimator_that_hides_failed_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="dapo replaces the groups that all failed"):
        config_of("prefix", "rl.kind=dapo")
