"""Hidden states to log-probs of given tokens, a chunk at a time; [T, V] never exists at once.

    hidden_TH --linear, temperature--> logits_CV --log-softmax--> log_prob_C, entropy_C

The first chunks' log-probs are kept for the backward pass, those of the others are computed anew.
With p the probabilities and H the entropy of a token's distribution:

    d log p_y / d logit_v = [v = y] - p_v              d H / d logit_v = -p_v (log p_v + H)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

WORKING_CHUNKS, KEPT_CHUNKS = 2, 4
"""Chunks' worth of logits that exist while one chunk is computed (its log-probs, and the logits or
their gradient in 16 bits), and how many chunks are kept for the backward pass."""
VALUES_PER_PIECE = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Values of a chunk that element-wise work takes at once: few enough on a CPU that temporaries stay
in its cache, since touching fresh memory costs more than the work."""


def chunk_for(num_bytes: float, vocabulary: int) -> int:
    """Return a chunk's tokens, if the logits that exist at once may take `num_bytes` in fp32."""
    return max(1, int(num_bytes) // (4 * vocabulary * (WORKING_CHUNKS + KEPT_CHUNKS)))


class TokenScores(NamedTuple):
    """The policy at the T scored tokens of a micro-batch, in the grid's order."""

    log_prob_T: torch.Tensor
    """fp32, with gradient; nats."""
    entropy_T: torch.Tensor
    """fp32, with gradient only where the model was built for it; nats."""
    is_top_T: torch.Tensor | None = None
    """bool; whether the token is the policy's likeliest; None where gradients are computed."""


class ChunkedHead(nn.Module):
    """The output embedding and the log-softmax behind it.

    It holds the output embedding itself instead of calling that module per chunk: ZeRO-3 then
    gathers the weight once, however many chunks a rank has (ranks with different numbers of
    chunks would otherwise run different numbers of collectives and hang).
    """

    def __init__(
        self,
        output_embedding: nn.Linear,
        temperature: float,
        chunk: int,
        num_kept: int,
        has_entropy_gradient: bool,
    ) -> None:
        """Share the parameters of `output_embedding`.

        `chunk` tokens' logits are computed at once; those of `num_kept` chunks are kept.
        """
        super().__init__()
        self.weight = output_embedding.weight
        self.bias = output_embedding.bias
        self._temperature = temperature
        self._chunk = chunk
        self._num_kept = num_kept
        self._has_entropy_gradient = has_entropy_gradient

    def forward(self, hidden_TH: torch.Tensor, target_T: torch.Tensor) -> TokenScores:
        """Score `target_T` under the hidden states that predict them; T = 0 stays in the graph."""
        if not torch.is_grad_enabled():
            return self._without_gradient(hidden_TH, target_T)
        cut = _Cut(self._temperature, self._chunk, self._num_kept)
        log_prob_T, entropy_T = _ChunkedLogProb.apply(  # type: ignore[no-untyped-call]
            hidden_TH, self.weight, self.bias, target_T, cut
        )
        if not self._has_entropy_gradient:
            entropy_T = entropy_T.detach()
        return TokenScores(log_prob_T, entropy_T)

    def _without_gradient(self, hidden_TH: torch.Tensor, target_T: torch.Tensor) -> TokenScores:
        parts: list[tuple[torch.Tensor, ...]] = []
        for hidden_CH, target_C in _chunks(self._chunk, hidden_TH, target_T):
            log_p_CV, entropy_C = _log_softmax(hidden_CH, self.weight, self.bias, self._temperature)
            is_top_C = log_p_CV.argmax(-1) == target_C
            parts.append((_pick(log_p_CV, target_C), entropy_C, is_top_C))
        log_prob_T, entropy_T, is_top_T = (torch.cat(part) for part in zip(*parts, strict=True))
        return TokenScores(log_prob_T, entropy_T, is_top_T)


class _Cut(NamedTuple):
    """How a `_ChunkedLogProb` is computed."""

    temperature: float
    chunk: int
    num_kept: int


class _ChunkedLogProb(torch.autograd.Function):
    """(log_prob_T, entropy_T) of hidden_TH."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_T: torch.Tensor,
        cut: _Cut,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.cut = cut
        # Not among the saved tensors: the backward pass overwrites them.
        ctx.kept = []
        parts = []
        for hidden_CH, target_C in _chunks(cut.chunk, hidden_TH, target_T):
            log_p_CV, entropy_C = _log_softmax(hidden_CH, weight_VH, bias_V, cut.temperature)
            parts.append((_pick(log_p_CV, target_C), entropy_C))
            if len(ctx.kept) < cut.num_kept:
                ctx.kept.append(log_p_CV)
        log_prob_T, entropy_T = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T, entropy_T)
        ctx.set_materialize_grads(False)
        return log_prob_T, entropy_T

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_log_prob_T: torch.Tensor | None, grad_entropy_T: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden_TH, weight_VH, bias_V, target_T, entropy_T = ctx.saved_tensors
        temperature = ctx.cut.temperature
        if grad_log_prob_T is None:
            grad_log_prob_T = torch.zeros_like(entropy_T)
        grad_hidden_TH = torch.empty_like(hidden_TH)
        weight_sum, bias_sum = _Sum(), _Sum()
        kept, ctx.kept = ctx.kept, []
        first = 0
        for hidden_CH, target_C in _chunks(ctx.cut.chunk, hidden_TH, target_T):
            part = slice(first, first + len(target_C))
            first = part.stop
            log_p_CV = (
                kept.pop(0) if kept else _log_softmax(hidden_CH, weight_VH, bias_V, temperature)[0]
            )
            grad_CV = _backward(
                log_p_CV,
                target_C,
                grad_log_prob_T[part, None] / temperature,
                None if grad_entropy_T is None else grad_entropy_T[part, None] / temperature,
                entropy_T[part, None],
                hidden_TH.dtype,
            )
            if bias_V is not None:
                bias_sum.add(grad_CV.sum(0, dtype=log_p_CV.dtype))
            torch.mm(grad_CV, weight_VH, out=grad_hidden_TH[part])
            if ctx.needs_input_grad[1]:
                weight_sum.add_product(grad_CV, hidden_CH)
        return grad_hidden_TH, weight_sum.total(weight_VH), bias_sum.total(bias_V), None, None


class _Sum:
    """A gradient summed over chunks: in fp32, since bf16 would lose small terms of a long sum."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None

    def add(self, term: torch.Tensor) -> None:
        if self._total is None:
            self._total = term
            return
        if self._total.dtype == torch.bfloat16:
            self._total = self._total.float()
        self._total += term

    def add_product(self, grad_CV: torch.Tensor, hidden_CH: torch.Tensor) -> None:
        """Add grad^T hidden."""
        if self._total is not None and self._total.dtype == grad_CV.dtype != torch.bfloat16:
            self._total.addmm_(grad_CV.T, hidden_CH)
        else:
            self.add(grad_CV.T @ hidden_CH)

    def total(self, like: torch.Tensor | None) -> torch.Tensor | None:
        """Return the sum in the type of `like`; None where nothing was added."""
        return None if self._total is None or like is None else self._total.to(like.dtype)


def _chunks(
    chunk: int, hidden_TH: torch.Tensor, target_T: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(torch.split(hidden_TH, chunk), torch.split(target_T, chunk), strict=True))


def _log_softmax(
    hidden_CH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probs and entropy."""
    logits_CV = nn.functional.linear(hidden_CH, weight_VH, bias_V)
    # fp32 (or better): a bf16 log-softmax is off by more than a step moves the policy.
    dtype = torch.promote_types(logits_CV.dtype, torch.float32)
    log_p_CV = logits_CV if logits_CV.dtype == dtype else torch.empty_like(logits_CV, dtype=dtype)
    entropies = []
    for logits_PV, log_p_PV in zip(_pieces(logits_CV), _pieces(log_p_CV), strict=True):
        scaled_PV = logits_PV.to(dtype)
        if temperature != 1.0:
            scaled_PV = scaled_PV / temperature
        torch.log_softmax(scaled_PV, -1, out=log_p_PV)
        entropies.append(-torch.linalg.vecdot(log_p_PV.exp(), log_p_PV))
    return log_p_CV, torch.cat(entropies)


def _backward(
    log_p_CV: torch.Tensor,
    target_C: torch.Tensor,
    slope_C1: torch.Tensor,
    entropy_slope_C1: torch.Tensor | None,
    entropy_C1: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the logits' gradient in `dtype`, given those of log-prob and entropy.

    Overwrites the log-probs.
    """
    grad_CV = log_p_CV if log_p_CV.dtype == dtype else torch.empty_like(log_p_CV, dtype=dtype)
    first = 0
    for log_p_PV, grad_PV in zip(_pieces(log_p_CV), _pieces(grad_CV), strict=True):
        part = slice(first, first + len(log_p_PV))
        first = part.stop
        slope_PV = slope_P1 = slope_C1[part]
        if entropy_slope_C1 is not None:
            slope_PV = slope_P1 + entropy_slope_C1[part] * (log_p_PV + entropy_C1[part])
        log_p_PV.exp_().mul_(-slope_PV)
        log_p_PV.scatter_add_(1, target_C[part, None], slope_P1)
        if grad_CV is not log_p_CV:
            grad_PV.copy_(log_p_PV)
    return grad_CV


def _pieces(values_CV: torch.Tensor) -> Sequence[torch.Tensor]:
    rows = max(1, VALUES_PER_PIECE[values_CV.device.type] // values_CV.size(1))
    return torch.split(values_CV, rows)


def _pick(log_p_CV: torch.Tensor, target_C: torch.Tensor) -> torch.Tensor:
    return log_p_CV.gather(-1, target_C[:, None]).squeeze(-1)
