"""ReLIFT: RL, and an SFT step of its own whenever enough prompts were failed."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from coop_rl.algorithm.methods import Method
from coop_rl.algorithm.methods.base import Needs, StepData
from coop_rl.types import Demonstration, Objective, ScoredGroup
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
Data = tuple[Sequence[ScoredGroup], Sequence[Demonstration]]


def relift(buffer_size: int) -> Method:
    return method_of("relift", f"buffer_size={buffer_size}", f"entropy_weight={ALPHA}")


def rl_equation(table: Table, batch: Batch) -> Total:
    """- 1/(N L) sum r A - alpha H, A = R - mean over the rollouts alone."""
    total, everything = Total(table), list[Token]()
    num_rows = sum(len(group.rollouts) for group in batch.groups)
    for group in batch.groups:
        baseline = mean(reward.value for reward in group.rewards)
        for tokens, reward in zip(rollouts(table, group), group.rewards, strict=True):
            everything += tokens
            for token in tokens:
                weight = token.mismatch * (reward.value - baseline)
                total.add_ratio(token, -weight / (num_rows * MAX_TOKENS))
    total.add_mean_entropy(everything, -ALPHA)
    return total


def sft_equation(table: Table, experts: Sequence[Demonstration]) -> Total:
    """mean_t -log pi - alpha H over the demonstrations' tokens."""
    total = Total(table)
    tokens = [token for expert in experts for token in trace(table, expert)]
    for token in tokens:
        total.add_log_prob(token, -1.0 / len(tokens))
    total.add_mean_entropy(tokens, -ALPHA)
    return total


@pytest.mark.parametrize("num_micros", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_losses_and_gradients_of_both_steps_are_those_of_the_equations(
    seed: int, num_micros: int
) -> None:
    batch = random_batch(seed)
    table, method = Table(batch, seed), relift(1)
    alpha = config_of("relift", f"entropy_weight={ALPHA}").method.rl_settings.entropy_weight
    failed = [d for d in batch.demonstrations if d.id == "p1"]
    for step, want in enumerate((rl_equation(table, batch), sft_equation(table, failed))):
        data: Data = ((), ()) if step else (batch.groups, batch.demonstrations)
        lesson = method.compose(StepData(step, *data))
        got = evaluate(table, lesson, method.estimator, alpha, num_micros)
        assert got.loss == pytest.approx(want.loss, rel=1e-10)
        np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)


def names(shown: Sequence[Demonstration]) -> list[str]:
    return [d.id for d in shown]


def test_only_prompts_with_all_wrong_and_a_demonstration_are_buffered() -> None:
    method, batch = relift(100), random_batch(0)
    method.compose(StepData(0, batch.groups, batch.demonstrations))
    # All wrong are p1, p3 has a right one of low reward, p4 has no demonstration.
    assert [row[0] for row in method.state()["buffer"]] == ["p1"]


def failing(*indices: int) -> Data:
    """A step whose prompts `indices` are failed, beside one that isn't."""
    groups = [scored_group(i, [False] * 3) for i in indices]
    groups.append(scored_group(50, [True, False, False]))
    return groups, [demonstration(i) for i in (*indices, 50)]


NOTHING: Data = ((), ())


def test_the_step_after_the_buffer_is_full_is_sft_on_the_oldest_and_then_rl_again() -> None:
    method = relift(3)
    rl, sft = Needs(True, "matching"), Needs(False, "none")
    for step, indices in enumerate([(0,), (), (1, 2, 3)]):
        assert method.needs(step) == rl
        lesson = method.compose(StepData(step, *failing(*indices)))
        assert lesson.objective == Objective(1.0, 0.0)
        assert not lesson.demonstrations
        assert len(lesson.samples) == 3 * (len(indices) + 1)
    assert method.needs(3) == sft
    lesson = method.compose(StepData(3))
    assert names(lesson.demonstrations) == ["p0", "p1", "p2"]
    assert not lesson.samples
    assert method.needs(4) == rl
    method.compose(StepData(4, *failing(4)))
    assert method.needs(5) == rl
    method.compose(StepData(5, *failing(0)))
    assert names(method.compose(StepData(6)).demonstrations) == ["p3", "p4", "p0"]


def test_a_buffer_filled_twice_over_gives_two_sft_steps_in_a_row() -> None:
    method = relift(2)
    method.compose(StepData(0, *failing(*range(5))))
    assert names(method.compose(StepData(1)).demonstrations) == ["p0", "p1"]
    assert names(method.compose(StepData(2)).demonstrations) == ["p2", "p3"]
    assert method.needs(3).rollouts


def test_sft_steps_have_a_second_optimizer_a_rate_and_entropy_bonus() -> None:
    method = method_of("relift", "buffer_size=1", "sft_lr_scale=5", "entropy_weight=0.02")
    assert not method.objective(0).has_second_optimizer
    method.compose(StepData(0, *failing(0)))
    assert method.objective(1) == Objective(
        rl_weight=0.0,
        sft_weight=1.0,
        sft_entropy_weight=0.02,
        lr_scale=5.0,
        has_second_optimizer=True,
    )


def test_a_run_resumed_from_json_at_any_step_goes_on_alike() -> None:
    rng = np.random.default_rng(0)
    failed = [tuple(rng.choice(20, size=rng.integers(0, 4), replace=False)) for _ in range(30)]

    def run(stop: int) -> list[tuple[bool, list[str], list[tuple[int, ...]]]]:
        method, seen = relift(4), []
        for step, indices in enumerate(failed):
            if step == stop:
                state = json.loads(json.dumps(method.state()))
                method = relift(4)
                method.begin(10, state)
            data = failing(*map(int, indices)) if method.needs(step).rollouts else NOTHING
            shown = method.compose(StepData(step, *data)).demonstrations
            seen.append((not data[0], names(shown), [d.response_ids for d in shown]))
        return seen

    whole = run(-1)
    assert any(is_sft for is_sft, _, _ in whole)
    assert all(run(stop) == whole for stop in range(len(failed)))


def test_the_state_keeps_whole_demonstrations() -> None:
    method, data = relift(1), failing(7)
    method.compose(StepData(0, *data))
    resumed = relift(1)
    resumed.begin(10, json.loads(json.dumps(method.state())))
    assert resumed.compose(StepData(1)).demonstrations == [data[1][0]]
