"""Rendered rows as sequences: small sources in memory, large ones rendered when asked for.

ReadRows --render--> tuple, checked whole            (at most EAGER_ROWS rows)
         --render--> RenderedRows, a sample checked  (more)
one sequence per source --> Mixture --> order of the steps
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar, overload

import numpy as np

from coop_rl.data.order import MixtureOrder, Order, SeededOrder
from coop_rl.data.rows import BadRows, ByPosition, Dropped, ReadRows, RowError, TextRow

EAGER_ROWS = 20_000
"""A larger source is not rendered before the run starts."""
CHECKED_ROWS = 2_000
"""Rows of a larger one that are rendered before the run starts, evenly spaced."""

T = TypeVar("T")


class RenderedRows(Sequence[T]):
    """Rows rendered when asked for.

    A row that turns out bad stands for the next good one, where rows may be dropped: a function of
    the position alone, so a resumed run sees the same.
    """

    def __init__(
        self,
        rows: Sequence[TextRow],
        render: Callable[[TextRow], T],
        span: range,
        *,
        may_drop: bool,
    ) -> None:
        """Render the rows at `span`."""
        self._rows, self._render, self._span, self._may_drop = rows, render, span, may_drop

    def __len__(self) -> int:
        """Return the rows."""
        return len(self._span)

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> "RenderedRows[T]": ...
    def __getitem__(self, position: int | slice) -> "T | RenderedRows[T]":
        """Render a row, or give a part.

        Raises:
            RowError: The row is bad, and rows may not be dropped, or all are.
            IndexError: There is no such row.
        """
        if isinstance(position, slice):
            span = self._span[position]
            return RenderedRows(self._rows, self._render, span, may_drop=self._may_drop)
        position = range(len(self))[position]
        for ahead in range(len(self._span)):
            index = self._span[(position + ahead) % len(self._span)]
            try:
                return self._render(self._rows[index])
            except RowError:
                if not self._may_drop or ahead == len(self._span) - 1:
                    raise
        raise AssertionError("every row was tried")


class Mixture(ByPosition[T]):
    """One sequence per source, laid end to end; with one source just that."""

    def __init__(self, parts: Sequence[Sequence[T]], weights: Sequence[float]) -> None:
        """Mix `parts` by `weights`."""
        self.parts, self.weights = tuple(parts), tuple(weights)
        self._ends = list(accumulate(len(part) for part in parts))

    @classmethod
    def of(cls, rows: Sequence[T]) -> "Mixture[T]":
        """Hold one source."""
        return cls([rows], [1.0])

    def __len__(self) -> int:
        """Return the rows of all sources."""
        return self._ends[-1] if self._ends else 0

    def item(self, position: int) -> T:
        """Return a row."""
        part = int(np.searchsorted(self._ends, position, side="right"))
        return self.parts[part][position - (self._ends[part - 1] if part else 0)]

    def order(self, per_step: int, seed: int, stream: int = 0) -> Order:
        """Return the order in which steps use the rows."""
        if len(self.parts) == 1:
            return SeededOrder(len(self), per_step, seed, stream)
        sizes = [len(part) for part in self.parts]
        return MixtureOrder(sizes, self.weights, per_step, seed, stream)

    def split_tail(self, num_rows: int) -> "tuple[Mixture[T], tuple[T, ...]]":
        """Take the last rows off, of each source in proportion to its size."""
        sizes = np.array([len(part) for part in self.parts], dtype=np.float64)
        exact = num_rows * sizes / max(1.0, sizes.sum())
        cut = np.floor(exact).astype(int)
        cut[np.argsort(-(exact - cut), kind="stable")[: num_rows - int(cut.sum())]] += 1
        ends = [len(part) - int(n) for part, n in zip(self.parts, cut, strict=True)]
        kept = [part[:end] for part, end in zip(self.parts, ends, strict=True)]
        tail = [row for part, end in zip(self.parts, ends, strict=True) for row in part[end:]]
        return Mixture(kept, self.weights), tuple(tail)


def render_rows(
    read: ReadRows,
    render: Callable[[TextRow], T],
    verify: Callable[[Sequence[TextRow], Sequence[T]], Sequence[RowError]],
    origin: str,
    max_dropped: float,
) -> tuple[Sequence[T], Dropped]:
    """Render a source's rows and check them, all or a sample.

    Args:
        read: The well-formed rows, and the others.
        render: Makes an item of a row, or raises RowError.
        verify: Judges rendered rows; returns an error for each that is bad.
        origin: The source, for messages.
        max_dropped: Share of bad rows that is left out; more is an error.

    Raises:
        DataError: Too many rows are bad, or all.
    """
    rows, bad = read.rows, read.bad
    num_rows = len(rows) + bad.total
    is_whole = len(rows) <= EAGER_ROWS
    positions = range(len(rows)) if is_whole else _spread(len(rows), CHECKED_ROWS)
    looked_at, items = [], []
    late = bad if is_whole else BadRows()
    for position in positions:
        row = rows[position]
        try:
            items.append(render(row))
            looked_at.append(row)
        except RowError as error:
            late.add(error)
    wrong = verify(looked_at, items)
    for found in wrong:
        late.add(found)
    if is_whole:
        dropped = bad.settle(origin, num_rows, max_dropped)
        unverified = {found.place for found in wrong}
        kept = [i for row, i in zip(looked_at, items, strict=True) if row.place not in unverified]
        return tuple(kept), dropped
    late.settle(f"the {len(positions)} looked at of {origin}", len(positions), max_dropped)
    dropped = bad.settle(origin, num_rows, max_dropped)
    whole = range(len(rows))
    return RenderedRows(rows, render, whole, may_drop=max_dropped > 0), dropped


def _spread(num_rows: int, count: int) -> list[int]:
    return sorted({int(position) for position in np.linspace(0, num_rows - 1, count)})
