"""Sums over the micro-batches and ranks of one step, and the two parts of theta's gradient."""

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import zip_longest
from typing import Protocol

import torch

from coop_rl.types import GradientParts, MicroBatch, SampleSums, StepMeans
from coop_rl.types.batch import to_device

VALUES_PER_PIECE = 1 << 22
"""Values taken to fp64 at once: a copy of a whole model's gradient in fp64 would be twice its size
in fp32."""


class Reducer(Protocol):
    """Whatever sums over the ranks of a learner group: the training engine."""

    device: torch.device

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Sum in place."""
        ...


class StepSums:
    """Sums of one optimiser step, collected in fp64; one all-reduce over the ranks at its end."""

    def __init__(self, num_samples: int, device: torch.device) -> None:
        """Start at zero for `num_samples` rollouts over all ranks."""
        self._num_samples = num_samples
        # RL loss, SFT loss, entropy, KL estimate, clipped tokens
        self._sums_5 = torch.zeros(5, dtype=torch.float64, device=device)
        self._log_ratio_N = torch.zeros(num_samples, dtype=torch.float64, device=device)
        self._kl_N = torch.zeros(num_samples, dtype=torch.float64, device=device)
        self._has_kl = False

    def add_rl(
        self,
        micro: MicroBatch,
        loss: torch.Tensor,
        log_ratio_B: torch.Tensor,
        entropy_T: torch.Tensor,
        num_clipped: torch.Tensor,
    ) -> None:
        """Add a micro-batch of rollouts."""
        self._sums_5[0] += loss.detach().double()
        self._sums_5[2] += entropy_T.detach().double().sum()
        self._sums_5[4] += num_clipped.double()
        self._by_sample(self._log_ratio_N, micro, log_ratio_B)

    def add_kl(self, micro: MicroBatch, value_T: torch.Tensor, k1_B: torch.Tensor) -> None:
        """Add the KL to the reference: the estimate of every token, k1 of every row."""
        self._has_kl = True
        self._sums_5[3] += value_T.double().sum()
        self._by_sample(self._kl_N, micro, k1_B)

    def add_sft(self, loss: torch.Tensor) -> None:
        """Add a micro-batch of demonstrations."""
        self._sums_5[1] += loss.detach().double()

    @staticmethod
    def _by_sample(total_N: torch.Tensor, micro: MicroBatch, value_B: torch.Tensor) -> None:
        total_N[to_device(micro.row_B, value_B.device)] = value_B.double()

    def reduce(
        self, reducer: Reducer, num_rl_tokens: int, *, has_rl: bool, has_sft: bool
    ) -> tuple[StepMeans, SampleSums]:
        """Sum over the ranks and take the means."""
        packed = torch.cat([self._sums_5, self._log_ratio_N, self._kl_N])
        reducer.all_reduce_sum(packed)
        values: list[float] = packed.tolist()
        rl_loss, sft_loss, entropy, kl, num_clipped = values[:5]
        log_ratio_N = tuple(values[5 : 5 + self._num_samples])
        kl_N = tuple(values[5 + self._num_samples :])

        def mean(total: float, is_measured: bool) -> float:
            return total / num_rl_tokens if is_measured else math.nan

        has_kl = has_rl and self._has_kl
        means = StepMeans(
            rl_loss=rl_loss if has_rl else math.nan,
            sft_loss=sft_loss if has_sft else math.nan,
            entropy=mean(entropy, has_rl),
            mismatch_kl=mean(-math.fsum(log_ratio_N), has_rl),
            kl_ref=mean(kl, has_kl),
            clip_fraction=mean(num_clipped, has_rl),
        )
        return means, SampleSums(log_ratio_N if has_rl else (), kl_N if has_kl else ())


def mean_of(steps: Sequence[StepMeans]) -> StepMeans:
    """Return each figure's mean over the optimiser steps that computed it; nan where none did."""

    def mean(name: str) -> float:
        values = [v for v in (asdict(step)[name] for step in steps) if not math.isnan(v)]
        return sum(values) / len(values) if values else math.nan

    return StepMeans(**{field.name: mean(field.name) for field in fields(StepMeans)})


def pieces(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return the tensor, flat, in parts that may be taken to fp64 one by one."""
    return torch.split(tensor.reshape(-1), VALUES_PER_PIECE)


def dot(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Return the dot product of this rank's shards, in fp64 a chunk at a time."""
    total: torch.Tensor | float = 0.0
    for x, y in zip(a, b, strict=True):
        pairs = zip(pieces(x), pieces(y), strict=True)
        # Summed where they are: a number asked for would make the host wait.
        total = total + sum((p.double() * q.double()).sum() for p, q in pairs)
    return float(total)


def compare_parts(
    reducer: Reducer,
    rl: Sequence[torch.Tensor] | None,
    total: Sequence[torch.Tensor] | None,
    rl_weight: float,
    sft_weight: float,
) -> GradientParts:
    """Measure g_RL and g_SFT = (g - rl_weight * g_RL) / sft_weight, where they were computed.

    Args:
        reducer: Sums over ranks.
        rl: This rank's parts of g_RL; None when there was no RL phase.
        total: This rank's parts of the fused gradient g; None when there was no SFT phase.
        rl_weight: Weight of g_RL in g.
        sft_weight: Weight of g_SFT in g.
    """
    dots_3 = torch.zeros(3, dtype=torch.float64, device=reducer.device)
    for index in range(len(total or rl or ())):
        rl_pieces, total_pieces = (pieces(p[index]) if p else None for p in (rl, total))
        for rl_part, total_part in zip_longest(rl_pieces or (), total_pieces or ()):
            if rl_part is not None:
                dots_3[0] += rl_part.double().square().sum()
            if total_part is None:
                continue
            sft_part = total_part.double()
            if rl_part is not None:
                sft_part = sft_part - rl_weight * rl_part.double()
            sft_part = sft_part / sft_weight
            dots_3[1] += sft_part.square().sum()
            if rl_part is not None:
                dots_3[2] += (rl_part.double() * sft_part).sum()
    reducer.all_reduce_sum(dots_3)
    rl_square, sft_square, both = dots_3.tolist()
    product = math.sqrt(rl_square * sft_square) if rl_square >= 0 and sft_square >= 0 else math.nan
    return GradientParts(
        rl_norm=math.sqrt(rl_square) if rl is not None else math.nan,
        sft_norm=math.sqrt(sft_square) if total is not None else math.nan,
        cosine=both / product if rl is not None and total is not None and product > 0 else math.nan,
    )
