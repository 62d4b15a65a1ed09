"""Samples and demonstrations to rows per rank and micro-batch, with global denominators.

Rows are dealt over the ranks longest first, back and forth, so that token counts balance; within
a rank neighbours in length share a micro-batch, so that little is padded. Both branches get the
same packing, hence bitwise equal gradients at theta-hat = theta.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from coop_rl.config import RunConfig
from coop_rl.types import (
    BranchBatch,
    Demonstration,
    Lesson,
    MicroBatch,
    MicroBatches,
    PackedBatch,
    ScoredGroup,
    SourceBatch,
    TokenSample,
)

ANCHOR_LENGTH = 2
"""Smallest row the model can score a next token in."""


@dataclass(frozen=True, slots=True)
class PackShape:
    """How a batch is cut."""

    num_ranks: int
    micro_batch_tokens: int
    """Limit of rows x longest row; a single longer row is a micro-batch of its own."""
    num_minibatches: int = 1
    """Optimiser steps a meta-step's data is cut into."""
    num_epochs: int = 1
    """Passes over them."""
    group_size: int = 1
    """Samples per prompt."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Take the sections `learner` and `rollout`."""
        section = config.learner
        return cls(
            num_ranks=section.num_ranks,
            micro_batch_tokens=section.micro_batch_tokens,
            num_minibatches=section.num_minibatches,
            num_epochs=section.num_epochs,
            group_size=config.rollout.samples_per_prompt,
        )


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
    samples: Sequence[TokenSample],
    demonstrations: Sequence[Demonstration],
    shape: PackShape,
    sources: Sequence[str] = ("",),
) -> PackedBatch:
    """Cut the data of one optimiser step into micro-batches for every rank.

    Args:
        samples: Rollouts.
        demonstrations: Expert traces.
        shape: How to cut.
        sources: Demonstrations of these sources get batches of their own; "": all in one.
    """
    rl_rows = [
        _Row(i, s.prompt_ids, s.response_ids, s.advantage, s.behaviour_log_probs)
        for i, s in enumerate(samples)
    ]
    batches = (_pack_source(source, demonstrations, shape) for source in sources)
    return PackedBatch(
        rl=_cut(rl_rows, shape),
        sft=tuple(batch for batch in batches if batch.num_rows),
        num_rl_tokens=sum(len(row.response_ids) for row in rl_rows),
        num_samples=len(rl_rows),
    )


def pack_branches(
    lesson: Lesson, fresh: Sequence[TokenSample], shape: PackShape, *, is_own: bool
) -> tuple[BranchBatch, BranchBatch]:
    """Cut one meta-step's data into optimiser steps, for `joint` and for `rl_only`.

    Samples come group by group and groups stay whole; demonstrations are dealt evenly.

    Args:
        lesson: What `joint` is given.
        fresh: The shadow's own rollouts on the same prompts; empty: it shares joint's.
        shape: How to cut.
        is_own: Whether theta-hat learns from `fresh` (else only the bracket is measured there).
    """
    sources = lesson.objective.sources
    joint = [pack(*part, shape, sources) for part in _parts(lesson, shape)]
    joint = [batch for batch in joint if batch.num_samples or batch.sft]
    if not fresh:
        both = BranchBatch(tuple(joint) * shape.num_epochs)
        return both, both
    own = Lesson(fresh, (), lesson.objective)
    shadow = [pack(*part, shape, sources) for part in _parts(own, shape)]
    # The same denominator as joint's, so that the bracket is a difference of like sums.
    bracket = replace(shadow[0], num_rl_tokens=joint[0].num_rl_tokens)
    learned = shadow if is_own else joint
    return (
        BranchBatch(tuple(joint) * shape.num_epochs),
        BranchBatch(tuple(learned) * shape.num_epochs, bracket),
    )


def first_minibatch(groups: Sequence[ScoredGroup], shape: PackShape) -> Sequence[ScoredGroup]:
    """Return the groups whose samples make the first optimiser step."""
    return groups[: len(groups) // shape.num_minibatches]


def _parts(
    lesson: Lesson, shape: PackShape
) -> Iterator[tuple[Sequence[TokenSample], Sequence[Demonstration]]]:
    count, size = shape.num_minibatches, shape.group_size
    num_groups, num_shown = len(lesson.samples) // size, len(lesson.demonstrations)
    for index in range(count):
        first, last = num_groups * index // count, num_groups * (index + 1) // count
        begin, end = num_shown * index // count, num_shown * (index + 1) // count
        yield lesson.samples[first * size : last * size], lesson.demonstrations[begin:end]


def _pack_source(
    source: str, demonstrations: Sequence[Demonstration], shape: PackShape
) -> SourceBatch:
    chosen = [d for d in demonstrations if source in ("", d.source)]
    rows = [_Row(i, d.prompt_ids, d.response_ids, d.weight) for i, d in enumerate(chosen)]
    return SourceBatch(
        source=source,
        ranks=_cut(rows, shape),
        num_tokens=sum(len(row.response_ids) for row in rows),
        ids=tuple(d.id for d in chosen),
    )


def _cut(rows: list[_Row], shape: PackShape) -> MicroBatches:
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
