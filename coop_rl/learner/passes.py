"""Forward and backward passes over packed data: what happens inside a phase of `gradient_step`.

    MicroBatch --engine--> log-probs --estimator, KL, entropy--> loss --backward--> gradients

`gradient_step` reads and weighs the gradients between its phases.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.estimators.base import (
    RlEstimator,
    RolloutCounts,
    RolloutTokens,
    sum_by_row,
)
from coop_rl.algorithm.kl import kl_loss, kl_per_token
from coop_rl.algorithm.lanes import BatchRow, Tree, lay_out
from coop_rl.algorithm.losses import demonstration_loss, sequence_log_ratio, sft_loss
from coop_rl.config.estimators import ReweightedRl, RlSettings
from coop_rl.learner.engine import TrainingEngine
from coop_rl.learner.statistics import StepSums
from coop_rl.models import TokenScores
from coop_rl.models.policy import inputs_of
from coop_rl.tracing.trace import span
from coop_rl.types import (
    DemonstrationFit,
    DemonstrationTerm,
    MicroBatch,
    Objective,
    PackedBatch,
    SourceBatch,
    TokenRow,
)
from coop_rl.types.batch import to_device

Reference = Callable[..., TokenScores]
"""pi_ref: called with the parts of a TokenGrid; without gradient."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """What turns log-probs into a loss."""

    estimator: RlEstimator
    rl: RlSettings
    """Caps of the weights, KL penalty and entropy bonus."""
    max_tokens: int
    """Longest response, which some losses divide by."""


@dataclass(slots=True)
class TokenCounter:
    """Tokens that this rank has computed since the step began, prompts included, padding not."""

    forward: int = 0
    backward: int = 0


class Passes:
    """One rank's passes through its engine."""

    def __init__(
        self, settings: LossSettings, engine: TrainingEngine, reference: Reference | None
    ) -> None:
        """Compute with `engine`; `reference` is needed where the KL has a weight."""
        self._settings = settings
        self._engine = engine
        self._reference = reference
        self._bracket = build_estimator(
            ReweightedRl(ratio_cap=settings.rl.ratio_cap), settings.max_tokens
        )
        self._old: dict[int, torch.Tensor] = {}
        self.counter = TokenCounter()

    @property
    def is_bracket_loss(self) -> bool:
        """Whether theta's RL loss is the one the bracket needs, an entropy bonus is not."""
        settings = self._settings
        return settings.estimator.is_bracket_loss and settings.rl.entropy_weight == 0

    @span("RL passes")
    def rollouts(self, batch: PackedBatch, sums: StepSums | None, *, is_bracket: bool) -> None:
        """Add the gradient of L_RL: the bracket's loss, or the loss of the run's estimator."""
        estimator = self._bracket if is_bracket else self._settings.estimator
        micros = batch.rl[self._engine.rank]
        # At least 1: where every response is masked the loss is 0.
        tokens, samples = max(1, batch.num_trained_tokens), max(1, batch.num_trained_samples)
        counts = RolloutCounts(tokens, samples)
        if estimator.needs_entropy:
            entropy = self.mean_entropy(micros, batch.num_rl_tokens)
            counts = RolloutCounts(tokens, samples, entropy)
        for micro in micros:
            # The bonus steers theta's exploration; it is no part of J_RL, the bracket's return.
            bonus = 0.0 if is_bracket else self._settings.rl.entropy_weight
            self._backward(micro, self._rollout_loss(micro, estimator, counts, sums, bonus))

    def _rollout_loss(
        self,
        micro: MicroBatch,
        estimator: RlEstimator,
        counts: RolloutCounts,
        sums: StepSums | None,
        entropy_weight: float,
    ) -> torch.Tensor:
        rl = self._settings.rl
        teacher_T = self._teacher_log_probs(micro) if estimator.needs_teacher else None
        scores = self._engine(micro.grid)
        tokens = self._tokens(micro, scores, teacher_T)
        num_rows = len(tokens.advantage_B)
        loss, num_clipped = estimator.loss(tokens, counts)
        log_ratio_B = sequence_log_ratio(
            tokens.log_prob_T, tokens.behaviour_log_prob_T, tokens.row_T, num_rows
        )
        if sums is not None:
            sums.add_rl(micro, loss, log_ratio_B, scores.entropy_T, num_clipped)
        if rl.kl.weight > 0:
            weight_T = (
                tokens.mismatch_T * (tokens.log_prob_T.detach() - tokens.old_log_prob_T).exp()
            )
            if estimator.is_bracket_loss:
                weight_B = log_ratio_B.exp().clamp(max=rl.ratio_cap)
                weight_T = weight_B.to(weight_T.dtype)[tokens.row_T]
            weight_T = _of_trained(weight_T, micro)
            loss = loss + rl.kl.weight * self._kl(micro, tokens, weight_T, counts, sums)
        if entropy_weight > 0:
            entropy_T = _of_trained(scores.entropy_T, micro)
            loss = loss - entropy_weight * entropy_T.sum() / counts.tokens
        return loss

    def _kl(
        self,
        micro: MicroBatch,
        tokens: RolloutTokens,
        weight_T: torch.Tensor,
        counts: RolloutCounts,
        sums: StepSums | None,
    ) -> torch.Tensor:
        """Return the micro-batch's share of KL(pi || pi_ref), differentiable; sum up its value."""
        assert self._reference is not None, "a KL needs the reference model"
        with torch.no_grad():
            inputs = inputs_of(self._reference, micro.grid, self._engine.device)
            reference_T = self._reference(*inputs).log_prob_T
        self._count_forward(micro)
        estimator, num_rows = self._settings.rl.kl.estimator, len(tokens.advantage_B)
        if sums is not None:
            log_prob_T = tokens.log_prob_T.detach()
            value_T = kl_per_token(estimator, log_prob_T, reference_T)
            sums.add_kl(
                micro, value_T, sum_by_row(log_prob_T - reference_T, tokens.row_T, num_rows)
            )
        return kl_loss(
            estimator,
            tokens.log_prob_T,
            reference_T,
            weight_T,
            tokens.row_T,
            num_rows,
            counts.tokens,
        )

    @torch.no_grad()
    def _teacher_log_probs(self, micro: MicroBatch) -> torch.Tensor:
        """Return log pi of the responses behind their teacher's prompts."""
        teacher = micro.teacher or micro  # an anchor has none, and its rank must compute as well
        self._count_forward(teacher)
        return self._engine(teacher.grid).log_prob_T

    def _tokens(
        self, micro: MicroBatch, scores: TokenScores, teacher_T: torch.Tensor | None
    ) -> RolloutTokens:
        device, cap = self._engine.device, self._settings.rl.mismatch_cap
        log_prob_T = scores.log_prob_T
        old_T = self._old.get(id(micro), log_prob_T.detach())
        behaviour_T, row_T, advantage_B, length_B = (
            to_device(tensor, device)
            for tensor in (
                micro.behaviour_log_prob_T,
                micro.row_T,
                micro.advantage_B,
                # Counted on the host: a GPU would be waited for.
                micro.row_T.bincount(minlength=len(micro.row_B)),
            )
        )
        return RolloutTokens(
            log_prob_T=log_prob_T,
            old_log_prob_T=old_T,
            behaviour_log_prob_T=behaviour_T,
            mismatch_T=torch.ones_like(old_T)
            if cap is None
            else (old_T - behaviour_T).exp().clamp(max=cap),
            row_T=row_T,
            advantage_B=advantage_B,
            length_B=length_B,
            teacher_log_prob_T=teacher_T,
        )

    @span("SFT passes")
    def demonstrations(self, batch: SourceBatch, objective: Objective, sums: StepSums) -> None:
        """Add the gradients of the SFT terms of one source, weighed as the objective says."""
        micros = batch.ranks[self._engine.rank]
        terms = [term for term in objective.terms if term.source in ("", batch.source)]
        factors = [self._factor(term, micros, batch.num_tokens) for term in terms]
        for micro in micros:
            scores = self._engine(micro.grid)
            weight_T = to_device(micro.advantage_B[micro.row_T], self._engine.device)
            sums.add_sft(_share(terms) * sft_loss(scores.log_prob_T, batch.num_tokens))
            parts = [
                factor
                * demonstration_loss(
                    term.loss,
                    scores.log_prob_T,
                    weight_T if term.is_weighted else torch.ones_like(weight_T),
                    batch.num_tokens,
                    batch.num_rows,
                    self._settings.max_tokens,
                )
                for term, factor in zip(terms, factors, strict=True)
            ]
            loss = objective.sft_weight * torch.stack(parts).sum()
            if objective.sft_entropy_weight > 0:
                bonus = scores.entropy_T.sum() / batch.num_tokens
                loss = loss - objective.sft_entropy_weight * bonus
            self._backward(micro, loss)

    def _factor(
        self, term: DemonstrationTerm, micros: Sequence[MicroBatch], num_tokens: int
    ) -> float:
        if not term.is_entropy_scaled:
            return term.share
        entropy = torch.tensor(self.mean_entropy(micros, num_tokens), dtype=torch.float64)
        return term.share * float((-entropy).exp())

    @torch.no_grad()
    def mean_entropy(self, micros: Iterable[MicroBatch], num_tokens: int) -> float:
        """Return the policy's mean entropy over all response tokens of all ranks, nats."""
        total = torch.zeros(1, dtype=torch.float64, device=self._engine.device)
        for micro in micros:
            total += self._engine(micro.grid).entropy_T.double().sum()
            self._count_forward(micro)
        self._engine.all_reduce_sum(total)
        return float(total) / num_tokens

    @span("one-step shadow")
    @torch.no_grad()
    def log_ratios(self, batch: PackedBatch) -> tuple[float, ...]:
        """Return the sum of log pi - log pi_b of each of the N samples, nats."""
        total_N = torch.zeros(batch.num_samples, dtype=torch.float64, device=self._engine.device)
        for micro in batch.rl[self._engine.rank]:
            log_prob_T, row_B = self._engine(micro.grid).log_prob_T, micro.row_B
            behaviour_T, row_T = (
                to_device(t, self._engine.device) for t in (micro.behaviour_log_prob_T, micro.row_T)
            )
            ratio_B = sequence_log_ratio(log_prob_T, behaviour_T, row_T, len(row_B))
            total_N[to_device(row_B, total_N.device)] = ratio_B.double()
            self._count_forward(micro)
        self._engine.all_reduce_sum(total_N)
        return tuple(total_N.tolist())

    @span("old log-probs")
    @torch.no_grad()
    def remember_old_log_probs(self, minibatches: Sequence[PackedBatch]) -> None:
        """Score the rollouts before the first optimiser step, if others follow it."""
        self._old.clear()
        if len(minibatches) == 1:
            return
        for micro in (m for batch in minibatches for m in batch.rl[self._engine.rank]):
            if id(micro) not in self._old:
                self._old[id(micro)] = self._engine(micro.grid).log_prob_T
                self._count_forward(micro)

    def _backward(self, micro: MicroBatch, loss: torch.Tensor) -> None:
        self._engine.backward(loss)
        self.counter.backward += micro.num_tokens

    def _count_forward(self, micro: MicroBatch) -> None:
        self.counter.forward += micro.num_tokens


def _of_trained(value_T: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
    """Return the values, 0 for tokens of masked responses."""
    is_trained_T = micro.is_trained_T
    return value_T if is_trained_T is None else value_T * to_device(is_trained_T, value_T.device)


def _share(terms: Sequence[DemonstrationTerm]) -> float:
    """Return the weight of a source's NLL in the reported mean."""
    return terms[0].share if terms and terms[0].source else 1.0


def score_rows(engine: TrainingEngine, rows: Iterable[TokenRow]) -> Iterator[TokenScores]:
    """Yield the scores of each row's response, one row at a time."""
    for prompt_ids, response_ids in rows:
        yield engine(lay_out([[Tree((BatchRow(0, prompt_ids, response_ids),))]]).grid)


def demonstration_fit(rows: Iterable[TokenScores]) -> DemonstrationFit:
    """Return the fit of rows that were scored without gradient, averaged over all their tokens."""
    log_probs: list[float] = []
    hits: list[bool] = []
    for scores in rows:
        assert scores.is_top_T is not None, "scored with gradient"
        log_probs += scores.log_prob_T.tolist()
        hits += scores.is_top_T.tolist()
    return DemonstrationFit(-sum(log_probs) / len(log_probs), sum(hits) / len(hits))
