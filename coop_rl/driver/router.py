"""Which engine a group goes to: the one that owes the fewest tokens, decided as late as possible.

Groups wait here, first come first served, until an engine has room; so a long response holds up its
own engine only, and a queue is never behind the wrong one. Called by `driver.generation`. Plain
Python: no Ray, no clock.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

SPARE_SHARE = 0.5
"""What an engine holds beyond the sequences it runs at once, as a share of them. A group counts
until its longest response has ended, so without spare groups an engine would run half empty."""


@dataclass(slots=True)
class _Load:
    """What one engine holds, at most."""

    sequences: int = 0
    tokens: int = 0
    stamp: int = 0
    """Counts the changes; entries of the heap with another stamp are out of date."""


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """A group and what it costs at most."""

    item: T
    """The group, which the router only hands on."""
    sequences: int
    """Number of responses."""
    tokens: int
    """Prompt tokens, counted once, and the most response tokens of all samples together."""


class Router(Generic[T]):
    """Engines with their outstanding tokens, and groups that wait; O(log engines) a group.

    A group is never split: its samples share the prompt's key-value cache.
    """

    def __init__(self, num_engines: int, max_sequences: int) -> None:
        """Route over engines 0, 1, ...

        Args:
            num_engines: At least 1.
            max_sequences: What an engine runs at once. It holds half as many more; the last group
                it takes may exceed this.
        """
        self._limit = max_sequences + max(1, int(SPARE_SHARE * max_sequences))
        self._loads = [_Load() for _ in range(num_engines)]
        self._waiting: deque[Work[T]] = deque()
        self._free = [(0, engine, 0) for engine in range(num_engines)]
        """Heap of (outstanding tokens, engine, stamp) of engines with room."""

    def add(self, work: Work[T]) -> None:
        """Let a group wait for an engine."""
        self._waiting.append(work)

    def start(self) -> Iterator[tuple[int, Work[T]]]:
        """Yield (engine, group) for groups that can begin now, until none can."""
        while self._waiting and self._free:
            _, engine, stamp = heapq.heappop(self._free)
            load = self._loads[engine]
            if stamp != load.stamp:
                continue
            work = self._waiting.popleft()
            load.sequences += work.sequences
            load.tokens += work.tokens
            self._note(engine)
            yield engine, work

    def finish(self, engine: int, work: Work[T]) -> None:
        """Take a generated group off its engine."""
        load = self._loads[engine]
        load.sequences -= work.sequences
        load.tokens -= work.tokens
        self._note(engine)

    def _note(self, engine: int) -> None:
        load = self._loads[engine]
        load.stamp += 1
        if load.sequences < self._limit:
            heapq.heappush(self._free, (load.tokens, engine, load.stamp))
