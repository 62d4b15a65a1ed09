"""Samples and demonstrations to rows per rank and micro-batch, with global denominators.

Rows are dealt over the ranks longest first, back and forth, so that token counts balance; within
a rank neighbours in length share a micro-batch, so that little is padded. Both branches get the
same packing, hence bitwise equal gradients at theta-hat = theta.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from coop_rl.types import Demonstration, MicroBatch, PackedBatch, TokenSample

ANCHOR_LENGTH = 2
"""Smallest row the model can score a next token in."""


@dataclass(frozen=True, slots=True)
class PackShape:
    """How a batch is cut."""

    num_ranks: int
    micro_batch_tokens: int
    """Limit of rows x longest row; a single longer row is a micro-batch of its own."""


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    advantage: float = 0.0
    behaviour_log_probs: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def pack(
    samples: Sequence[TokenSample], demonstrations: Sequence[Demonstration], shape: PackShape
) -> PackedBatch:
    """Cut one meta-step's data into micro-batches for every rank."""
    rl_rows = [
        _Row(i, s.prompt_ids, s.response_ids, s.advantage, s.behaviour_log_probs)
        for i, s in enumerate(samples)
    ]
    sft_rows = [_Row(i, d.prompt_ids, d.response_ids) for i, d in enumerate(demonstrations)]
    return PackedBatch(
        rl=_cut(rl_rows, shape),
        sft=_cut(sft_rows, shape),
        num_rl_tokens=sum(len(row.response_ids) for row in rl_rows),
        num_sft_tokens=sum(len(row.response_ids) for row in sft_rows),
        num_samples=len(rl_rows),
    )


def _cut(rows: list[_Row], shape: PackShape) -> tuple[tuple[MicroBatch, ...], ...]:
    """Return [rank][micro-batch], the same number of micro-batches on every rank."""
    if not rows:
        return ((),) * shape.num_ranks
    ordered = sorted(rows, key=lambda row: (-row.length, row.index))
    shares: list[list[_Row]] = [[] for _ in range(shape.num_ranks)]
    for position, row in enumerate(ordered):
        lap, seat = divmod(position, shape.num_ranks)
        shares[seat if lap % 2 == 0 else shape.num_ranks - 1 - seat].append(row)
    bins = [_fill(share, shape.micro_batch_tokens) for share in shares]
    most = max(len(rank_bins) for rank_bins in bins)
    return tuple(
        tuple(_collate(rows_of_bin) for rows_of_bin in rank_bins + [[]] * (most - len(rank_bins)))
        for rank_bins in bins
    )


def _fill(rows: list[_Row], micro_batch_tokens: int) -> list[list[_Row]]:
    """Group rows, longest first, so that rows x longest stays within the limit."""
    bins: list[list[_Row]] = []
    for row in rows:
        if bins and (len(bins[-1]) + 1) * bins[-1][0].length <= micro_batch_tokens:
            bins[-1].append(row)
        else:
            bins.append([row])
    return bins


def _collate(rows: list[_Row]) -> MicroBatch:
    """Right-pad rows to tensors; no rows: one anchor row without response tokens."""
    longest = max((row.length for row in rows), default=ANCHOR_LENGTH)
    num_rows = max(1, len(rows))
    token_ids_BL = torch.zeros(num_rows, longest, dtype=torch.int64)
    is_response_BL = torch.zeros(num_rows, longest, dtype=torch.bool)
    for b, row in enumerate(rows):
        token_ids_BL[b, : row.length] = torch.tensor(row.prompt_ids + row.response_ids)
        is_response_BL[b, len(row.prompt_ids) : row.length] = True
    log_probs = [value for row in rows for value in row.behaviour_log_probs]
    return MicroBatch(
        token_ids_BL=token_ids_BL,
        is_response_BL=is_response_BL,
        row_B=torch.tensor([row.index for row in rows] or [-1]),
        advantage_B=torch.tensor([row.advantage for row in rows] or [0.0], dtype=torch.float32),
        behaviour_log_prob_T=torch.tensor(log_probs, dtype=torch.float32),
    )
