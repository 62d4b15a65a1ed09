"""Sequences into lanes: which lie beside and behind each other in a micro-batch.

    rows --share prompts--> trees --fill lanes--> [[tree, ...], ...] --lay out--> MicroBatch

A tree is a prompt with one response or several, computed as one sequence. A lane is a line of the
grid that the decoder computes; a place is one token's room in it. Padding and repeated prompts cost
places, long lanes cost attention, which is dense over a lane whose sequences must not see each
other. `cost` weighs the two, and the cheapest of a few ways to fill lanes is taken. Called by
`packing`.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from struct import Struct
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from coop_rl.types import MicroBatch, TokenGrid

Layout = Literal["trees", "lanes", "flat", "varlen", "padded"]
"""trees: lanes of trees; lanes: lanes of single sequences; flat: one lane of sequences, varlen: of
trees, without padding (attention of variable length); padded: a lane for each sequence."""

ANCHOR_TOKENS = 2
"""Length of the smallest lane in which the model can score a next token."""
MAX_LANE_LENGTHS = 4
"""The longest lane that is tried, in lengths of the longest tree."""
SHARED_TREE_TOKENS = (0, 256, 512, 1024)
"""The limits that are tried for the tokens of a tree with several responses; 0: no prompt is
shared."""
VARLEN_TREES = (16, 8, 4, 2, 1)
"""The limits that are tried in the layout `varlen`, as parts of a micro-batch."""
ATTENTIONS_PER_HIDDEN = 4
"""What a place costs apart from attention, per unit of the hidden size, where attention to one
token costs 1; measured with 0.8 M and 135 M parameters (bench/layouts.py)."""
PASS_COST_TOKENS = 96
"""What every micro-batch costs beyond its places, whatever its size, in places without attention;
on a CPU, measured with the above."""
PASS_COST_TOKENS_GPU = 1_000
"""The same on a GPU: launching the kernels of both passes. Assumed, not measured: a 3 B model's
36 layers of some 150 kernels at 5 us are 27 ms, and 1,000 of its tokens at 350 TFLOPS 71 ms."""
PASS_COST_TOKENS_GATHERED = 8_000
"""The same on GPUs at ZeRO stage 3, where every micro-batch gathers all weights two or three times.
Assumed, not measured: within a node that is 62 ms for 3 B (300 GB/s), between nodes 0.7 s."""
MAX_HALVINGS = 6
"""How often the largest number of lanes is halved to find the numbers that are tried."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A rollout or demonstration of the global batch on its way into a lane."""

    index: int
    """Its place in the global batch."""
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    advantage: float = 0.0
    behaviour_log_probs: tuple[float, ...] = ()
    is_masked: bool = False
    """Whether it is scored only, and does not train."""
    teacher_prompt_ids: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Tree:
    """Responses to one prompt, which is computed once."""

    rows: tuple[BatchRow, ...]

    @cached_property  # ways to fill lanes ask for it thousands of times
    def length(self) -> int:
        """Tokens of the prompt and of all responses."""
        return len(self.rows[0].prompt_ids) + sum(len(row.response_ids) for row in self.rows)


Lanes = list[list[Tree]]


def grow_trees(rows: Sequence[BatchRow], longest: int) -> list[Tree]:
    """Return the rows as trees: those of one prompt together, up to `longest` tokens."""
    return grow_forests(rows, (longest,))[0]


def grow_forests(rows: Sequence[BatchRow], limits: Sequence[int]) -> list[list[Tree]]:
    """Return the rows as trees once for each limit of a tree's tokens; 0: each row by itself."""
    by_prompt: dict[tuple[tuple[int, ...], tuple[int, ...]], list[BatchRow]] = {}
    for row in rows if any(limits) else ():
        by_prompt.setdefault((row.prompt_ids, row.teacher_prompt_ids), []).append(row)
    return [
        [Tree(part) for members in by_prompt.values() for part in _split(members, limit)]
        if limit
        else [Tree((row,)) for row in rows]
        for limit in limits
    ]


def _split(members: Sequence[BatchRow], longest: int) -> Iterator[tuple[BatchRow, ...]]:
    """Cut the responses to a prompt so that no tree is too long."""
    part: list[BatchRow] = []
    length = 0
    for row in members:
        if part and length + len(row.response_ids) > longest:
            yield tuple(part)
            part = []
        length = length + len(row.response_ids) if part else row.length
        part.append(row)
    yield tuple(part)


def pass_cost_tokens(*, is_on_gpu: bool, zero_stage: int) -> int:
    """Return what a micro-batch costs beyond its places, by where learners are."""
    if not is_on_gpu:
        return PASS_COST_TOKENS
    return PASS_COST_TOKENS_GATHERED if zero_stage == 3 else PASS_COST_TOKENS_GPU


def cost(lanes: Lanes, hidden_size: int, layout: Layout) -> int:
    """Return what a micro-batch costs, in units of one token's attention to another.

    Attention of variable length is left out: it is the same however sequences lie.
    """
    length = max(sum(tree.length for tree in lane) for lane in lanes)
    attended = 0 if layout in ("flat", "varlen") else length
    return len(lanes) * length * (ATTENTIONS_PER_HIDDEN * hidden_size + attended)


def cut(
    trees: Sequence[Tree],
    micro_batch_tokens: int,
    layout: Layout,
    hidden_size: int,
    pass_cost: int = PASS_COST_TOKENS,
) -> list[Lanes]:
    """Cut one rank's trees into micro-batches, longest first.

    Args:
        trees: The trees of one rank.
        micro_batch_tokens: Limit of lanes x longest lane; a longer tree is a micro-batch by itself.
        layout: How lanes are filled.
        hidden_size: H of the model.
        pass_cost: What a micro-batch costs beyond its places, in places.
    """
    left = sorted(trees, key=lambda tree: (-tree.length, tree.rows[0].index))
    micros: list[Lanes] = []
    while left:
        lanes, left = _next_micro_batch(left, micro_batch_tokens, layout, hidden_size, pass_cost)
        micros.append(lanes)
    return micros


def _next_micro_batch(
    trees: list[Tree], limit: int, layout: Layout, hidden_size: int, pass_cost: int
) -> tuple[Lanes, list[Tree]]:
    """Fill lanes in the way that is cheapest a token; return them and the trees left over."""
    longest, ascending = trees[0].length, [-tree.length for tree in trees]
    if layout in ("flat", "varlen"):
        return _fill(trees, ascending, max(limit, longest), 1)
    ways = [([[tree] for tree in trees[:n]], trees[n:]) for n in _halves(limit // longest)]
    if layout != "padded":
        lengths = [
            longest,
            *(n * longest for n in range(2, MAX_LANE_LENGTHS + 1) if n * longest <= limit),
        ]
        ways += [_fill(trees, ascending, n, k) for n in lengths for k in _halves(limit // n)]

    def per_token(way: tuple[Lanes, list[Tree]]) -> float:
        spent = cost(way[0], hidden_size, layout) + pass_cost * ATTENTIONS_PER_HIDDEN * hidden_size
        return spent / sum(tree.length for lane in way[0] for tree in lane)

    return min(ways, key=per_token)


def _halves(most: int) -> list[int]:
    """Return the numbers of lanes to try; fewer lanes pad less, more lanes mean fewer passes."""
    return sorted({max(1, most >> n) for n in range(MAX_HALVINGS)}, reverse=True)


def _fill(
    trees: Sequence[Tree], ascending: Sequence[int], length: int, num_lanes: int
) -> tuple[Lanes, list[Tree]]:
    """Put each tree, longest first, into the lane it fills best; return lanes and leftovers.

    Args:
        trees: Longest first.
        ascending: Their lengths, negative.
        length: Places of a lane.
        num_lanes: Lanes at most.
    """
    lanes: Lanes = []
    room: list[tuple[int, int]] = []  # (places left, lane), ascending
    left: list[Tree] = []
    number = 0
    while number < len(trees):
        tree = trees[number]
        place = bisect_left(room, (tree.length, 0))
        if place < len(room):
            free, lane = room.pop(place)
        elif len(lanes) < num_lanes:
            free, lane = length, len(lanes)
            lanes.append([])
        else:  # on to the first that is short enough for the most room there is
            fitting = bisect_left(ascending, -room[-1][0], number)
            left.extend(trees[number:fitting])
            number = fitting
            continue
        lanes[lane].append(tree)
        insort(room, (free - tree.length, lane))
        number += 1
    return lanes, left


def lay_out(lanes: Lanes) -> MicroBatch:
    """Return the tensors of a micro-batch; without lanes an anchor, whose T and B are 0."""
    if not lanes:
        return _anchor()
    trees = [tree for lane in lanes for tree in lane]
    rows = [row for tree in trees for row in tree.rows]
    micro = _micro_batch(_grid(lanes, rows), rows, sum(tree.length for tree in trees))
    if not rows[0].teacher_prompt_ids:
        return micro
    return replace(micro, teacher=lay_out([[_taught(tree) for tree in lane] for lane in lanes]))


def _taught(tree: Tree) -> Tree:
    """Return the tree's responses behind their teacher's prompt."""
    rows = (replace(r, prompt_ids=r.teacher_prompt_ids, teacher_prompt_ids=()) for r in tree.rows)
    return Tree(tuple(rows))


def _grid(lanes: Lanes, rows: Sequence[BatchRow]) -> TokenGrid:
    """Write every lane's prompts and responses, in the order of `rows`, to their places."""
    places = len(lanes), max(sum(tree.length for tree in lane) for lane in lanes)
    # Every place is written once below, padding too.
    grids = [np.empty(places, np.int64) for _ in range(4)]
    ids, positions, sequences, responses = (grid.reshape(-1) for grid in grids)
    num_scored = sum(len(row.response_ids) for row in rows)
    sources_T, targets_T = np.empty(num_scored, np.int64), np.empty(num_scored, np.int64)
    counted, done = np.arange(places[1]), 0
    for k, lane in enumerate(lanes):
        end = k * places[1]
        for number, tree in enumerate(lane):
            prompt, begin = tree.rows[0].prompt_ids, end
            end += len(prompt)
            ids[begin:end] = _integers(prompt)
            positions[begin:end] = counted[: len(prompt)]
            responses[begin:end] = 0
            stem = end - 1  # predicts every response's first token
            # A single response has its prompt's number, 0: it goes on where the prompt ends.
            for response, row in enumerate(tree.rows, start=int(len(tree.rows) > 1)):
                size = len(row.response_ids)
                own, scored = slice(end, end + size), slice(done, done + size)
                ids[own] = targets_T[scored] = _integers(row.response_ids)
                positions[own] = counted[len(prompt) : len(prompt) + size]
                responses[own] = response
                np.add(counted[:size], end - 1, out=sources_T[scored])
                sources_T[scored][:1] = stem
                end, done = end + size, done + size
            sequences[begin:end] = number
        padding = slice(end, (k + 1) * places[1])
        ids[padding] = positions[padding] = responses[padding] = 0
        sequences[padding] = -1
    ids_KL, positions_KL, sequences_KL, responses_KL = map(torch.from_numpy, grids)
    # Where each lane is one sequence, positions are 0, 1, ... and all that lies before is seen.
    is_plain = len(rows) == len(lanes)
    return TokenGrid(
        ids_KL,
        None if is_plain else positions_KL,
        None if is_plain else sequences_KL,
        None if is_plain else responses_KL,
        torch.from_numpy(sources_T),
        torch.from_numpy(targets_T),
    )


def _integers(values: tuple[int, ...]) -> NDArray[np.int64]:
    """Return them as an array; numpy itself takes more than twice as long to read a tuple."""
    # A call with nothing before the star hands the tuple on as it is, without copying it.
    return np.frombuffer(Struct(f"{len(values)}q").pack(*values), np.int64)


def _micro_batch(grid: TokenGrid, rows: Sequence[BatchRow], num_tokens: int) -> MicroBatch:
    row_T = np.empty(len(grid.target_T), np.int64)
    is_trained_T = np.empty(len(row_T), np.bool_)
    log_prob_T = np.empty(sum(len(row.behaviour_log_probs) for row in rows), np.float32)
    done = 0
    for number, row in enumerate(rows):
        own = slice(done, done + len(row.response_ids))
        row_T[own], is_trained_T[own], done = number, not row.is_masked, own.stop
        if log_probs := row.behaviour_log_probs:
            packed = Struct(f"{len(log_probs)}f").pack(*log_probs)
            log_prob_T[own] = np.frombuffer(packed, np.float32)
    return MicroBatch(
        grid=grid,
        row_T=torch.from_numpy(row_T),
        row_B=torch.tensor([row.index for row in rows], dtype=torch.int64),
        advantage_B=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        behaviour_log_prob_T=torch.from_numpy(log_prob_T),
        num_tokens=num_tokens,
        is_trained_T=None if is_trained_T.all() else torch.from_numpy(is_trained_T),
    )


def _anchor() -> MicroBatch:
    nothing = torch.zeros(0, dtype=torch.int64)
    ids_KL = torch.zeros(1, ANCHOR_TOKENS, dtype=torch.int64)
    return _micro_batch(TokenGrid(ids_KL, None, None, None, nothing, nothing), (), 0)
