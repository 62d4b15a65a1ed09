"""Which rows a step uses: a pure function of (seed, step), so there is nothing to checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

STREAMS_PER_SOURCE = 1000
"""Order streams of the sources of a mixture lie so far apart."""


class Order(Protocol):
    """The rows of each step."""

    def batch(self, step: int) -> list[int]:
        """Return the row indices of a step."""
        ...


@lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, stream: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of one epoch; cached, because each of its steps asks for it."""
    return np.random.default_rng([seed, stream, epoch]).permutation(num_rows)


@dataclass(frozen=True, slots=True)
class SeededOrder:
    """Epochs laid end to end, each a fresh permutation, cut into batches of `per_step`.

    A batch may cross from one epoch into the next; every epoch visits each row once. A resumed run
    asks for the same step and gets the same rows.
    """

    num_rows: int
    per_step: int
    seed: int
    stream: int = 0
    """Tells orders of one seed apart, such as prompts (0) and demonstrations (1)."""

    def batch(self, step: int) -> list[int]:
        """Return the row indices of a step, each in [0, num_rows).

        Raises:
            ValueError: There are no rows.
        """
        return self.rows(step * self.per_step, self.per_step)

    def rows(self, position: int, count: int) -> list[int]:
        """Return the row indices at `position` and after it, epochs laid end to end.

        Raises:
            ValueError: There are no rows.
        """
        if self.num_rows < 1:
            raise ValueError(f"an order needs rows, got {self.num_rows}")
        rows: list[int] = []
        while len(rows) < count:
            epoch, offset = divmod(position + len(rows), self.num_rows)
            order = _permutation(self.num_rows, self.seed, self.stream, epoch)
            rows += order[offset : offset + count - len(rows)].tolist()
        return rows


class MixtureOrder:
    """Rows of several sources laid end to end, drawn by weight, each source in its own order.

    Draw by draw the source that is furthest behind its weight is next (Webster's method), so after
    any number of draws no source is more than one behind or ahead; weights hold within a batch as
    far as whole rows allow, and exactly over time.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        per_step: int,
        seed: int,
        stream: int = 0,
    ) -> None:
        """Mix sources of `sizes` rows by `weights`, which need not sum to 1."""
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int).tolist()
        self._weights = np.asarray(weights, dtype=np.float64) / sum(weights)
        self._per_step = per_step
        self._orders = [
            SeededOrder(size, per_step, seed, stream + STREAMS_PER_SOURCE * i)
            for i, size in enumerate(sizes)
        ]
        self._drawn: list[NDArray[np.int64]] = [np.zeros(len(sizes), dtype=np.int64)]
        """Rows drawn from each source before step 0, 1, ...; made as far as was asked for."""
        self._sources: list[list[int]] = []
        """Source of each draw of step 0, 1, ..."""

    def batch(self, step: int) -> list[int]:
        """Return the row indices of a step."""
        while len(self._sources) <= step:
            self._plan_next()
        sources = self._sources[step]
        rows_of = [
            iter(order.rows(int(drawn), sources.count(source)))
            for source, (order, drawn) in enumerate(
                zip(self._orders, self._drawn[step], strict=True)
            )
        ]
        return [self._starts[source] + next(rows_of[source]) for source in sources]

    def _plan_next(self) -> None:
        drawn = self._drawn[-1].copy()
        sources = []
        for _ in range(self._per_step):
            source = int(np.argmax(self._weights / (drawn + 0.5)))
            drawn[source] += 1
            sources.append(source)
        self._drawn.append(drawn)
        self._sources.append(sources)
