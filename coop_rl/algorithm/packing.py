"""Samples and demonstrations to micro-batches for every rank, with global denominators.

Trees (a prompt and its responses, `lanes`) are dealt over the ranks longest first, each to the rank
with the fewest tokens. Both branches get the same packing, hence bitwise equal gradients at
theta-hat = theta.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from coop_rl.algorithm.lanes import (
    ATTENTIONS_PER_HIDDEN,
    PASS_COST_TOKENS,
    SHARED_TREE_TOKENS,
    VARLEN_TREES,
    BatchRow,
    Lanes,
    Layout,
    Tree,
    cost,
    cut,
    grow_forests,
    lay_out,
    pass_cost_tokens,
)
from coop_rl.config import RunConfig
from coop_rl.config.sizes import attention, zero_stage
from coop_rl.tracing.trace import span
from coop_rl.types import (
    BranchBatch,
    Demonstration,
    Lesson,
    MicroBatches,
    PackedBatch,
    ScoredGroup,
    SourceBatch,
    TokenSample,
)


@dataclass(frozen=True, slots=True)
class PackShape:
    """How a batch is cut."""

    num_ranks: int
    micro_batch_tokens: int
    """Limit of lanes x longest lane; a single longer sequence is a micro-batch of its own."""
    num_minibatches: int = 1
    """Optimiser steps a meta-step's data is cut into."""
    num_epochs: int = 1
    """How often a meta-step goes through its minibatches."""
    group_size: int = 1
    """Samples per prompt."""
    layout: Layout = "trees"
    """How sequences lie in lanes."""
    mask_truncated: bool = False
    """Whether responses that the token limit ended do not train."""
    hidden_size: int = 1024
    """H of the model, which says how much attention costs beside the rest."""
    pass_cost: int = PASS_COST_TOKENS
    """What a micro-batch costs beyond its places, in places."""

    @classmethod
    def from_config(cls, config: RunConfig, hidden_size: int) -> Self:
        """Take the sections `learner` and `rollout`, and the model's H."""
        section = config.learner
        return cls(
            num_ranks=section.num_ranks,
            micro_batch_tokens=section.micro_batch_tokens,
            num_minibatches=section.num_minibatches,
            num_epochs=section.num_epochs,
            group_size=config.rollout.samples_per_prompt,
            hidden_size=hidden_size,
            layout=layout_of(config),
            mask_truncated=config.rollout.mask_truncated,
            pass_cost=pass_cost_tokens(
                is_on_gpu=config.placement.learner.gpus > 0, zero_stage=zero_stage(config)
            ),
        )


def layout_of(config: RunConfig) -> Layout:
    """Return how sequences lie in lanes."""
    kind = attention(config)
    if kind == "sdpa":
        return config.learner.packing
    return "varlen" if kind == "varlen" else "flat"


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
    rl_rows = [_row(i, sample, shape) for i, sample in enumerate(samples)]
    masked = [row for row in rl_rows if row.is_masked]
    batches = (_pack_source(source, demonstrations, shape) for source in sources)
    return PackedBatch(
        rl=_cut(rl_rows, shape),
        sft=tuple(batch for batch in batches if batch.num_rows),
        num_rl_tokens=sum(len(row.response_ids) for row in rl_rows),
        num_samples=len(rl_rows),
        num_masked_tokens=sum(len(row.response_ids) for row in masked),
        num_masked_samples=len(masked),
    )


def _row(index: int, sample: TokenSample, shape: PackShape) -> BatchRow:
    """Return a rollout's row; without an advantage where it is masked, so that no loss sees it."""
    is_masked = not sample.is_valid or (shape.mask_truncated and sample.is_truncated)
    return BatchRow(
        index,
        sample.prompt_ids,
        sample.response_ids,
        0.0 if is_masked else sample.advantage,
        sample.behaviour_log_probs,
        is_masked,
        sample.teacher_prompt_ids,
    )


@span("pack")
def pack_branches(
    lesson: Lesson, fresh: Sequence[TokenSample], shape: PackShape, *, is_own: bool
) -> tuple[BranchBatch, BranchBatch]:
    """Cut one meta-step's data into optimiser steps, for `joint` and for `shadow`.

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
        scaffold = pack_scaffold(lesson.scaffold, shape) if lesson.scaffold else None
        both = BranchBatch(tuple(joint) * shape.num_epochs, scaffold=scaffold)
        return both, both
    own = Lesson(fresh, (), lesson.objective)
    shadow = [pack(*part, shape, sources) for part in _parts(own, shape)]
    # The same denominator as joint's, so that the bracket is a difference of like sums.
    first = joint[0]
    bracket = replace(
        shadow[0], num_rl_tokens=first.num_rl_tokens, num_masked_tokens=first.num_masked_tokens
    )
    learned = shadow if is_own else joint
    return (
        BranchBatch(tuple(joint) * shape.num_epochs),
        BranchBatch(tuple(learned) * shape.num_epochs, bracket),
    )


def pack_scaffold(demonstrations: Sequence[Demonstration], shape: PackShape) -> SourceBatch:
    """Cut the demonstrations that w is fitted to."""
    return _pack_source("", demonstrations, shape)


def first_minibatch(groups: Sequence[ScoredGroup], shape: PackShape) -> Sequence[ScoredGroup]:
    """Return the groups whose samples make the first optimiser step."""
    return groups[: len(groups) // shape.num_minibatches]


def useful_share(batches: Sequence[PackedBatch]) -> float:
    """Return the share of places in the batches' grids that hold a token; nan without batches."""
    grids = [ranks for batch in batches for ranks in batch.rl]
    grids += [ranks for batch in batches for source in batch.sft for ranks in source.ranks]
    micros = [micro for micro_batches in grids for micro in micro_batches]
    num_places = sum(micro.num_places for micro in micros)
    return sum(micro.num_tokens for micro in micros) / num_places if num_places else math.nan


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
    rows = [BatchRow(i, d.prompt_ids, d.response_ids, d.weight) for i, d in enumerate(chosen)]
    return SourceBatch(
        source=source,
        ranks=_cut(rows, shape),
        num_tokens=sum(len(row.response_ids) for row in rows),
        ids=tuple(d.id for d in chosen),
    )


def _cut(rows: Sequence[BatchRow], shape: PackShape) -> MicroBatches:
    """Return [rank][micro-batch], the same number of micro-batches on every rank."""
    if not rows:
        return ((),) * shape.num_ranks
    limits = {
        "trees": SHARED_TREE_TOKENS,
        # Large trees share more prompts, small ones fill micro-batches and ranks evenly.
        "varlen": tuple(shape.micro_batch_tokens // n for n in VARLEN_TREES),
    }
    lengths = limits.get(shape.layout, (0,))
    # Where no two rows may share a prompt, the trees are those of the first limit.
    forests = grow_forests(rows, lengths)
    forests = forests[:1] + [forest for forest in forests[1:] if len(forest) < len(rows)]
    micros = min((_plan(forest, shape) for forest in forests), key=lambda p: _cost(p, shape))
    most = max(len(of_rank) for of_rank in micros)
    return tuple(
        tuple(lay_out(lanes) for lanes in of_rank + [[]] * (most - len(of_rank)))
        for of_rank in micros
    )


def _plan(trees: Sequence[Tree], shape: PackShape) -> list[list[Lanes]]:
    """Return each rank's micro-batches."""
    shares = _deal(trees, shape.num_ranks)
    limit, layout, hidden_size = shape.micro_batch_tokens, shape.layout, shape.hidden_size
    return [cut(share, limit, layout, hidden_size, shape.pass_cost) for share in shares]


def _cost(plan: Sequence[Sequence[Lanes]], shape: PackShape) -> int:
    """Return what the rank with the most to do has to do.

    A pass counts by what it costs more than on a CPU, where it does not tell plans apart.
    """
    hidden = shape.hidden_size
    per_pass = (shape.pass_cost - PASS_COST_TOKENS) * ATTENTIONS_PER_HIDDEN * hidden
    return max(
        sum(cost(lanes, hidden, shape.layout) + per_pass for lanes in of_rank) for of_rank in plan
    )


def _deal(trees: Sequence[Tree], num_ranks: int) -> list[list[Tree]]:
    """Give each tree, longest first, to the rank with the fewest tokens."""
    shares: list[list[Tree]] = [[] for _ in range(num_ranks)]
    load = [(0, rank) for rank in range(num_ranks)]
    for tree in sorted(trees, key=lambda tree: (-tree.length, tree.rows[0].index)):
        tokens, rank = load[0]
        heapq.heapreplace(load, (tokens + tree.length, rank))
        shares[rank].append(tree)
    return shares
