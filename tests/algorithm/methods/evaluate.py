"""What a learner makes of a lesson, on a table of logits: the product's losses put together.

L = rl_weight (L_RL - alpha H_rollouts)
  + sft_weight sum_terms share [exp(-H_demo)] L_term - sft_entropy_weight H_demo
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from coop_rl.algorithm.estimators import RlEstimator, RolloutCounts, RolloutTokens
from coop_rl.algorithm.losses import demonstration_loss
from coop_rl.types import Lesson, TokenSample
from tests.algorithm.methods.scenes import MAX_TOKENS, MISMATCH_CAP, Table


@dataclass(frozen=True)
class Taken:
    """A loss and its gradient by every logit."""

    loss: float
    gradient_CV: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """Responses one after another: the context and token behind each of their tokens."""

    context_T: torch.Tensor
    token_T: torch.Tensor
    row_T: torch.Tensor
    length_B: torch.Tensor

    @classmethod
    def of(cls, table: Table, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> "_Rows":
        contexts = [table.contexts(*row) for row in rows]
        length_B = torch.tensor([len(c) for c in contexts])
        return cls(
            context_T=torch.tensor([c for row in contexts for c in row]),
            token_T=torch.tensor([t for _, response in rows for t in response]),
            row_T=torch.arange(len(rows)).repeat_interleave(length_B),
            length_B=length_B,
        )

    def log_probs(self, log_prob_CV: torch.Tensor) -> torch.Tensor:
        return log_prob_CV[self.context_T, self.token_T]

    def entropies(self, log_prob_CV: torch.Tensor) -> torch.Tensor:
        return -(log_prob_CV.exp() * log_prob_CV).sum(-1)[self.context_T]


def evaluate(
    table: Table,
    lesson: Lesson,
    estimator: RlEstimator,
    entropy_weight: float = 0.0,
    num_micros: int = 1,
) -> Taken:
    """Return the loss of a lesson, added up over `num_micros` micro-batches of each kind."""
    logits_CV = torch.tensor(table.logits_CV, requires_grad=True)
    log_prob_CV = logits_CV.log_softmax(-1)
    loss = logits_CV.sum() * 0.0
    objective = lesson.objective
    if objective.rl_weight > 0 and lesson.samples:
        shares = _rollout_shares(table, lesson, estimator, entropy_weight, log_prob_CV, num_micros)
        loss = loss + objective.rl_weight * sum(shares)
    if objective.sft_weight > 0 and lesson.demonstrations:
        loss = loss + sum(_demonstration_shares(table, lesson, log_prob_CV, num_micros))
    loss.backward()
    assert logits_CV.grad is not None
    return Taken(float(loss.detach()), logits_CV.grad.numpy())


def _rollout_shares(
    table: Table,
    lesson: Lesson,
    estimator: RlEstimator,
    entropy_weight: float,
    log_prob_CV: torch.Tensor,
    num_micros: int,
) -> list[torch.Tensor]:
    samples = lesson.samples
    everything = _Rows.of(table, [(s.prompt_ids, s.response_ids) for s in samples])
    entropy = float(everything.entropies(log_prob_CV.detach()).mean())
    counts = RolloutCounts(
        tokens=len(everything.token_T),
        samples=len(samples),
        entropy=entropy if estimator.needs_entropy else float("nan"),
    )
    old_CV = torch.tensor(table.old_logits_CV).log_softmax(-1)
    shares = []
    for part in (samples[i::num_micros] for i in range(num_micros)):
        rows = _Rows.of(table, [(s.prompt_ids, s.response_ids) for s in part])
        behaviour_T = torch.tensor(
            [value for s in part for value in s.behaviour_log_probs], dtype=torch.float64
        )
        old_T = rows.log_probs(old_CV)
        tokens = RolloutTokens(
            log_prob_T=rows.log_probs(log_prob_CV),
            old_log_prob_T=old_T,
            behaviour_log_prob_T=behaviour_T,
            mismatch_T=(old_T - behaviour_T).exp().clamp(max=MISMATCH_CAP),
            row_T=rows.row_T,
            advantage_B=torch.tensor([s.advantage for s in part], dtype=torch.float64),
            length_B=rows.length_B,
            teacher_log_prob_T=_teacher_log_probs(table, part, log_prob_CV.detach()),
        )
        bonus = entropy_weight * rows.entropies(log_prob_CV).sum() / counts.tokens
        shares.append(estimator.loss(tokens, counts).loss - bonus)
    return shares


def _teacher_log_probs(
    table: Table, part: Sequence[TokenSample], log_prob_CV: torch.Tensor
) -> torch.Tensor | None:
    if not part[0].teacher_prompt_ids:
        return None
    rows = _Rows.of(table, [(s.teacher_prompt_ids, s.response_ids) for s in part])
    return rows.log_probs(log_prob_CV)


def _demonstration_shares(
    table: Table, lesson: Lesson, log_prob_CV: torch.Tensor, num_micros: int
) -> list[torch.Tensor]:
    objective, shown = lesson.objective, lesson.demonstrations
    everything = _Rows.of(table, [(d.prompt_ids, d.response_ids) for d in shown])
    num_tokens = len(everything.token_T)
    entropy = everything.entropies(log_prob_CV.detach()).mean()
    shares = []
    for part in (shown[i::num_micros] for i in range(min(num_micros, len(shown)))):
        rows = _Rows.of(table, [(d.prompt_ids, d.response_ids) for d in part])
        weight_B = torch.tensor([d.weight for d in part], dtype=torch.float64)
        for term in objective.terms:
            weight_T = weight_B[rows.row_T] if term.is_weighted else torch.ones(len(rows.row_T))
            factor = term.share * ((-entropy).exp() if term.is_entropy_scaled else 1.0)
            log_prob_T = rows.log_probs(log_prob_CV)
            value = demonstration_loss(
                term.loss, log_prob_T, weight_T, num_tokens, len(shown), MAX_TOKENS
            )
            shares.append(objective.sft_weight * factor * value)
        bonus = rows.entropies(log_prob_CV).sum() / num_tokens
        shares.append(-objective.sft_entropy_weight * bonus)
    return shares
