"""Methods that weigh L_RL (`reweighted`) and L_SFT at every step, against their equations."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from coop_rl.algorithm.methods import Method
from coop_rl.algorithm.methods.base import StepData
from coop_rl.types import Guidance
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.reference import Token, Total, deviation, mean, rollouts, trace
from tests.algorithm.methods.scenes import SEEDS, Batch, Table, method_of, random_batch

CAP = 5.0
MU_60 = 0.05 + 0.85 * (1 + math.cos(math.pi * 60 / 200)) / 2
TokenWeight = Callable[[Token], float]
EXAMPLES = Guidance(0.5, example_weights=(("p0", 3.0), ("p2", 0.25)))


def one(token: Token) -> float:
    return 1.0


def phi(token: Token) -> float:
    return token.p * (1 - token.p)


def equation(
    table: Table,
    batch: Batch,
    rl: float,
    sft: float,
    weight: TokenWeight = one,
    of_row: dict[str, float] | None = None,
) -> Total:
    """- rl/T sum_i sg[min(prod pi/pi_b, cap)] A_i sum_t log pi - sft/T' sum_t c sg[w_t] log pi."""
    total = Total(table)
    responses = [tokens for group in batch.groups for tokens in rollouts(table, group)]
    num_tokens = sum(len(tokens) for tokens in responses)
    values = [reward.value for group in batch.groups for reward in group.rewards]
    spans = [[r.value for r in group.rewards] for group in batch.groups for _ in group.rewards]
    behaviours = [r.behaviour_log_probs for group in batch.groups for r in group.rollouts]
    for tokens, value, span, behaviour in zip(responses, values, spans, behaviours, strict=True):
        advantage = (value - mean(span)) / (deviation(span) + 1e-6)
        ratio = math.prod(t.p for t in tokens) / math.exp(math.fsum(behaviour))
        for token in tokens:
            total.add_log_prob(token, -rl * min(ratio, CAP) * advantage / num_tokens)
    traces = [(d.id, trace(table, d)) for d in batch.demonstrations]
    num_shown = sum(len(tokens) for _, tokens in traces)
    for name, tokens in traces:
        c = of_row[name] if of_row else 1.0
        for token in tokens:
            total.add_log_prob(token, -sft * c * weight(token) / num_shown)
    return total


CASES: dict[str, tuple[str, tuple[str, ...], int, float, float, TokenWeight]] = {
    "rl": ("rl", (), 0, 1.0, 0.0, one),
    "sft": ("sft", (), 0, 0.0, 1.0, one),
    "sum": ("sum", ("mu=0.3",), 7, 1.0, 0.3, one),
    "alternate, RL": ("alternate", (), 4, 1.0, 0.0, one),
    "alternate, SFT": ("alternate", (), 5, 0.0, 1.0, one),
    "chord, first": ("chord", (), 0, 0.1, 0.9, one),
    "chord, fading": ("chord", (), 60, 1 - MU_60, MU_60, one),
    "chord, phi": ("chord", ("phi=true",), 60, 0.9, 0.1, phi),
    "cold_start, SFT": ("cold_start", (), 3, 0.0, 1.0, one),
    "bridge": ("bridge", ("mix=0.3",), 3, 0.3, 0.7, one),
}


def check(
    method: Method,
    table: Table,
    batch: Batch,
    step: int,
    guidance: Guidance | None,
    want: Total,
    num_micros: int = 1,
) -> None:
    needs = method.needs(step)
    groups = batch.groups if needs.rollouts else []
    shown = batch.demonstrations if needs.demonstrations == "next" else []
    lesson = method.compose(StepData(step, groups, shown, guidance))
    got = evaluate(table, lesson, method.estimator, num_micros=num_micros)
    assert got.loss == pytest.approx(want.loss, rel=1e-9)
    np.testing.assert_allclose(got.gradient_CV, want.gradient_CV, rtol=1e-9, atol=1e-14)
    assert np.abs(want.gradient_CV).max() > 1e-3


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(seed: int, name: str) -> None:
    kind, overrides, step, rl, sft, weight = CASES[name]
    batch = random_batch(seed)
    table = Table(batch, seed)
    method = method_of(kind, *overrides)
    method.begin(1000, {})
    want = equation(table, batch, rl, sft, weight)
    check(method, table, batch, step, None, want, num_micros=1 + seed % 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_cold_starts_second_phase_is_rl(seed: int) -> None:
    batch = random_batch(seed)
    table = Table(batch, seed)
    method = method_of("cold_start", "switch=epochs")
    method.begin(1, {})
    method.observe_evaluation(3, {})
    check(method, table, batch, 3, None, equation(table, batch, 1.0, 0.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_example_weights_weigh_rows_relative_to_their_mean(seed: int) -> None:
    batch = random_batch(seed)
    table = Table(batch, seed)
    given = dict(EXAMPLES.example_weights)
    raw = {d.id: given.get(d.id, 1.0) for d in batch.demonstrations}
    of_row = {name: value / mean(raw.values()) for name, value in raw.items()}
    want = equation(table, batch, 0.3, 0.7, one, of_row)
    check(method_of("bridge", "mix=0.3"), table, batch, 0, EXAMPLES, want)
