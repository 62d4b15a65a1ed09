"""The learner's own passes over packed micro-batches come to what the tests beside this evaluate.

Packed weights are fp32, hence the tolerance.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_rl.algorithm.methods import build_method
from coop_rl.algorithm.methods.base import StepData
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import RunConfig
from coop_rl.learner.passes import Passes
from coop_rl.learner.settings import LearnerSettings
from coop_rl.learner.statistics import StepSums
from coop_rl.models import TokenScores
from coop_rl.types import Guidance, Lesson, TokenGrid
from tests.algorithm.methods.evaluate import evaluate
from tests.algorithm.methods.scenes import (
    MISMATCH_CAP,
    Batch,
    Table,
    config_of,
    random_batch,
    taught,
)

TOLERANCE = 1e-6
CUTS = [1000, 20]
"""Tokens of a micro-batch: all in one, and about two rows."""
CASES = {
    "sum": ("sum", "mu=0.3"),
    "chord, phi": ("chord", "phi=true"),
    "hpt": ("hpt", "coef=0.3"),
    "luffy": ("luffy", "entropy_weight=0.05"),
    "srft": ("srft", "right_weight=0.3"),
    "self_distil": ("self_distil",),
    "relift, RL": ("relift", "entropy_weight=0.05"),
    "relift, SFT": ("relift", "entropy_weight=0.05", "buffer_size=1"),
}


class TableEngine:
    """The part of a TrainingEngine that passes need; the policy is a table in fp64."""

    rank, device = 0, torch.device("cpu")

    def __init__(self, table: Table) -> None:
        self._table = table
        self.logits_CV = torch.tensor(table.logits_CV, requires_grad=True)

    def __call__(self, grid: TokenGrid) -> TokenScores:
        length = grid.token_ids_KL.size(1)
        lane_T = grid.source_T // length
        contexts, tokens = list[int](), grid.target_T.tolist()
        for k, ids_L in enumerate(grid.token_ids_KL):
            # A lane is one sequence: its first scored token comes after the prompt.
            prompt = ids_L[: int(grid.source_T[lane_T == k][0]) - k * length + 1].tolist()
            contexts += self._table.contexts(prompt, grid.target_T[lane_T == k].tolist())
        log_prob_TV = self.logits_CV.log_softmax(-1)[contexts]
        entropy_T = -(log_prob_TV.exp() * log_prob_TV).sum(-1)
        return TokenScores(log_prob_TV[torch.arange(len(tokens)), tokens], entropy_T)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """There is one rank."""

    def gradient(self) -> np.ndarray:
        assert self.logits_CV.grad is not None
        return self.logits_CV.grad.numpy()


def passed(table: Table, lesson: Lesson, config: RunConfig, tokens: int) -> np.ndarray:
    """The gradient as `Learner.compute` takes it."""
    objective = lesson.objective
    shape = PackShape(num_ranks=1, micro_batch_tokens=tokens, layout="padded")
    batch = pack(lesson.samples, lesson.demonstrations, shape, objective.sources)
    engine = TableEngine(table)
    settings = LearnerSettings.from_config(config).loss
    settings = replace(settings, rl=settings.rl.model_copy(update={"mismatch_cap": MISMATCH_CAP}))
    passes = Passes(settings, engine, None)  # type: ignore[arg-type]
    sums = StepSums(batch.num_samples, engine.device)
    if objective.rl_weight > 0 and lesson.samples:
        passes.rollouts(batch, sums, is_bracket=False)
        assert engine.logits_CV.grad is not None
        engine.logits_CV.grad.mul_(objective.rl_weight)
    for source in batch.sft if objective.sft_weight > 0 else ():
        passes.demonstrations(source, objective, sums)
    return engine.gradient()


def scene() -> tuple[Batch, Table]:
    """On policy: passes of a single optimiser step have pi_old = pi."""
    batch = taught(random_batch(5))
    table = Table(batch, 5)
    table.old_logits_CV = table.logits_CV
    return batch, table


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    largest = np.abs(want).max()
    assert largest > 1e-3
    assert np.abs(got - want).max() < TOLERANCE * largest


@pytest.mark.parametrize("tokens", CUTS)
@pytest.mark.parametrize("name", CASES)
def test_passes_take_the_gradient_of_the_lessons_loss(name: str, tokens: int) -> None:
    batch, table = scene()
    config = config_of(*CASES[name])
    method = build_method(config)
    if name == "relift, SFT":
        method.compose(StepData(0, batch.groups, batch.demonstrations))
    lesson = method.compose(StepData(0, batch.groups, batch.demonstrations))
    alpha = config.method.rl_settings.entropy_weight
    want = evaluate(table, lesson, method.estimator, alpha).gradient_CV
    assert_close(passed(table, lesson, config, tokens), want)


@pytest.mark.parametrize("tokens", CUTS)
def test_sources_are_weighed_each_over_its_own_tokens(tokens: int) -> None:
    """(1 - lambda) sum_s v_s g_s, with g_s that of the source alone."""
    batch, table = scene()
    shown = [replace(d, source="ab"[i % 2]) for i, d in enumerate(batch.demonstrations)]
    guidance = Guidance(0.5, source_weights=(("a", 0.9), ("b", 0.1), ("absent", 0.5)))
    config = config_of("bridge", "mix=0.3")
    method = build_method(config)
    got = passed(table, method.compose(StepData(0, batch.groups, shown, guidance)), config, tokens)

    def alone(groups, demonstrations) -> np.ndarray:
        lesson = method.compose(StepData(0, groups, demonstrations))
        return evaluate(table, lesson, method.estimator).gradient_CV

    want = alone(batch.groups, [])
    for source, weight in (("a", 0.9), ("b", 0.1)):
        want = want + weight * alone([], [d for d in shown if d.source == source])
    assert_close(got, want)
