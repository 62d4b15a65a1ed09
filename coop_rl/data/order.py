"""Which rows a step uses: a pure function of (seed, step), so there is nothing to checkpoint."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


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
        if self.num_rows < 1:
            raise ValueError(f"an order needs rows, got {self.num_rows}")
        rows: list[int] = []
        position = step * self.per_step
        while len(rows) < self.per_step:
            epoch, offset = divmod(position + len(rows), self.num_rows)
            wanted = self.per_step - len(rows)
            order = _permutation(self.num_rows, self.seed, self.stream, epoch)
            rows += order[offset : offset + wanted].tolist()
        return rows
