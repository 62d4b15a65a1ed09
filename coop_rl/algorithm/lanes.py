"""Sequences into lanes: which lie beside and behind each other in a micro-batch.

    rows --share prompts--> trees --fill lanes--> [[tree, ...], ...] --lay out--> MicroBatch

A tree is a prompt with one response or several. Padding and repeated prompts cost places, long
lanes cost attention, which is dense over a lane whose sequences must not see each other. `cost`
weighs them, and the cheapest of a few ways to fill lanes is taken. Called by `packing`.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self

import torch

from coop_rl.types import MicroBatch, TokenGrid

Layout = Literal["trees", "lanes", "flat", "padded"]
"""trees: lanes of trees; lanes: lanes of single sequences; flat: one lane without padding (variable
length attention); padded: a lane for each sequence."""

ANCHOR_LENGTH = 2
"""Smallest lane the model can score a next token in."""
MOST_BEHIND = 4
"""Lanes are at most so many times as long as the longest sequence."""
SHARED_LENGTHS = (0, 256, 512, 1024)
"""Tokens that trees with several responses may have: what is tried; 0: no prompt is shared."""
PER_HIDDEN = 4
"""Attention to one more token costs 1 / (PER_HIDDEN H) of what the rest of a place does, measured
with 0.8 M and 135 M parameters (bench/layouts.py)."""
PER_PASS = 96
"""Places that a micro-batch costs besides its own, for the work that each pass has once."""
MOST_HALVINGS = 6
"""How often the number of lanes that fit is halved."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sample or demonstration on its way into a lane."""

    index: int
    """In the global batch."""
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    advantage: float = 0.0
    behaviour_log_probs: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Tree:
    """Responses to one prompt, which is computed once."""

    rows: tuple[Row, ...]

    @cached_property  # ways to fill lanes ask for it thousands of times
    def length(self) -> int:
        """Tokens."""
        return len(self.rows[0].prompt_ids) + sum(len(row.response_ids) for row in self.rows)


Lanes = list[list[Tree]]


def grow_trees(rows: Sequence[Row], longest: int) -> list[Tree]:
    """Return the rows as trees: those of one prompt together, up to `longest` tokens."""
    if longest == 0:
        return [Tree((row,)) for row in rows]
    by_prompt: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_ids, []).append(row)
    return [Tree(part) for members in by_prompt.values() for part in _split(members, longest)]


def _split(members: Sequence[Row], longest: int) -> Iterator[tuple[Row, ...]]:
    """Cut the responses to a prompt so that no tree is too long."""
    part: list[Row] = []
    length = 0
    for row in members:
        if part and length + len(row.response_ids) > longest:
            yield tuple(part)
            part = []
        length = length + len(row.response_ids) if part else row.length
        part.append(row)
    yield tuple(part)


def cost(lanes: Lanes, hidden_size: int) -> int:
    """Return what a micro-batch costs, in attentions to one token."""
    length = max(sum(tree.length for tree in lane) for lane in lanes)
    return len(lanes) * length * (PER_HIDDEN * hidden_size + length)


def cut(
    trees: Sequence[Tree], micro_batch_tokens: int, layout: Layout, hidden_size: int
) -> list[Lanes]:
    """Cut one rank's trees into micro-batches, longest first.

    Args:
        trees: Of one rank.
        micro_batch_tokens: Limit of lanes x longest lane; a longer tree is one by itself.
        layout: How lanes are filled.
        hidden_size: H of the model.
    """
    left = sorted(trees, key=lambda tree: (-tree.length, tree.rows[0].index))
    micros: list[Lanes] = []
    while left:
        lanes, left = _next_micro_batch(left, micro_batch_tokens, layout, hidden_size)
        micros.append(lanes)
    return micros


def _next_micro_batch(
    trees: list[Tree], limit: int, layout: Layout, hidden_size: int
) -> tuple[Lanes, list[Tree]]:
    """Fill lanes in the way that is cheapest a token; return them and the trees left over."""
    longest = trees[0].length
    if layout == "flat":
        return _fill(trees, max(limit, longest), 1)
    ways = [([[tree] for tree in trees[:n]], trees[n:]) for n in _halves(limit // longest)]
    if layout != "padded":
        lengths = [
            longest,
            *(n * longest for n in range(2, MOST_BEHIND + 1) if n * longest <= limit),
        ]
        ways += [_fill(trees, n, lanes) for n in lengths for lanes in _halves(limit // n)]

    def per_token(way: tuple[Lanes, list[Tree]]) -> float:
        spent = cost(way[0], hidden_size) + PER_PASS * PER_HIDDEN * hidden_size
        return spent / sum(tree.length for lane in way[0] for tree in lane)

    return min(ways, key=per_token)


def _halves(most: int) -> list[int]:
    """Return numbers of lanes to try: fewer have less padding, more have fewer passes."""
    return sorted({max(1, most >> n) for n in range(MOST_HALVINGS)}, reverse=True)


def _fill(trees: Sequence[Tree], length: int, num_lanes: int) -> tuple[Lanes, list[Tree]]:
    """Put each tree, longest first, into the lane it fills best; return lanes and leftovers."""
    lanes: Lanes = []
    room: list[tuple[int, int]] = []  # (places left, lane), ascending
    left: list[Tree] = []
    for tree in trees:
        place = bisect_left(room, (tree.length, 0))
        if place < len(room):
            free, lane = room.pop(place)
        elif len(lanes) < num_lanes:
            free, lane = length, len(lanes)
            lanes.append([])
        else:
            left.append(tree)
            continue
        lanes[lane].append(tree)
        insort(room, (free - tree.length, lane))
    return lanes, left


def lay_out(lanes: Lanes) -> MicroBatch:
    """Return the tensors of a micro-batch; without lanes an anchor, whose T and B are 0."""
    if not lanes:
        return _anchor()
    filled = [_Filled.of(lane) for lane in lanes]
    length = max(len(lane.ids) for lane in filled)

    def stacked(values: Iterable[list[int]], padding: int = 0) -> torch.Tensor:
        return torch.tensor([lane + [padding] * (length - len(lane)) for lane in values])

    trees = [tree for lane in lanes for tree in lane]
    rows = [row for tree in trees for row in tree.rows]
    is_plain = len(rows) == len(lanes)
    grid = TokenGrid(
        stacked(lane.ids for lane in filled),
        None if is_plain else stacked(lane.positions for lane in filled),
        None if is_plain else stacked((lane.sequences for lane in filled), padding=-1),
        None if is_plain else stacked(lane.branches for lane in filled),
        torch.tensor([k * length + s for k, lane in enumerate(filled) for s in lane.sources]),
        torch.tensor([token for row in rows for token in row.response_ids]),
    )
    return _micro_batch(grid, rows, sum(tree.length for tree in trees))


@dataclass(frozen=True, slots=True)
class _Filled:
    """A lane, place by place (see TokenGrid), and the places that predict its scored tokens."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Self:
        lane = cls()
        for number, tree in enumerate(trees):
            prompt = tree.rows[0].prompt_ids
            lane._add(prompt, 0, number, 0)
            stem = len(lane.ids) - 1  # predicts every response's first token
            # A single response is no branch: it goes on where the prompt ends.
            for branch, row in enumerate(tree.rows, start=int(len(tree.rows) > 1)):
                first = len(lane.ids)
                lane._add(row.response_ids, len(prompt), number, branch)
                lane.sources.append(stem)
                lane.sources.extend(range(first, len(lane.ids) - 1))
        return lane

    def _add(self, ids: tuple[int, ...], position: int, sequence: int, branch: int) -> None:
        self.ids.extend(ids)
        self.positions.extend(range(position, position + len(ids)))
        self.sequences.extend([sequence] * len(ids))
        self.branches.extend([branch] * len(ids))


def _micro_batch(grid: TokenGrid, rows: Sequence[Row], num_tokens: int) -> MicroBatch:
    log_probs = [value for row in rows for value in row.behaviour_log_probs]
    lengths = torch.tensor([len(row.response_ids) for row in rows], dtype=torch.int64)
    return MicroBatch(
        grid=grid,
        row_T=torch.arange(len(rows)).repeat_interleave(lengths),
        row_B=torch.tensor([row.index for row in rows], dtype=torch.int64),
        advantage_B=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
        behaviour_log_prob_T=torch.tensor(log_probs, dtype=torch.float32),
        num_tokens=num_tokens,
    )


def _anchor() -> MicroBatch:
    nothing = torch.zeros(0, dtype=torch.int64)
    ids_KL = torch.zeros(1, ANCHOR_LENGTH, dtype=torch.int64)
    return _micro_batch(TokenGrid(ids_KL, None, None, None, nothing, nothing), (), 0)
