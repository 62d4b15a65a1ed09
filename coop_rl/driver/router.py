"""Which engine a group goes to: the one that owes the fewest tokens, decided as late as possible.

Groups wait here, first come first served, until an engine has room; so a long response holds up its
own engine only, and a queue is never behind the wrong one. What a lost engine had goes back to its
place in the queue. Called by `driver.generation`. Plain Python: no Ray, no clock.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
    works: set["Work[Any]"] = field(default_factory=set)
    """The groups themselves."""
    is_closed: bool = False
    """Whether it gets no more."""


@dataclass(slots=True, eq=False)
class Work(Generic[T]):
    """A group and what it costs at most."""

    item: T
    """The group, which the router only hands on."""
    sequences: int
    """Number of responses."""
    tokens: int
    """Prompt tokens, counted once, and the most response tokens of all samples together."""
    is_alone: bool = False
    """Whether it gets an engine to itself; others wait behind it until one is empty."""
    place: int | None = None
    """Its place in the queue, which it keeps; the router gives it."""


class Router(Generic[T]):
    """Engines with their outstanding tokens, and groups that wait; O(log engines) a group.

    A group is never split: its samples share the prompt's key-value cache.
    """

    def __init__(self, engines: Iterable[int], max_sequences: int) -> None:
        """Route over engines.

        Args:
            engines: Their ids; of those that owe the same, the lowest gets a group.
            max_sequences: What an engine runs at once. It holds half as many more; the last group
                it takes may exceed this.
        """
        self._limit = max_sequences + max(1, int(SPARE_SHARE * max_sequences))
        self._loads: dict[int, _Load] = {}
        self._num_added = 0
        self._waiting: list[tuple[int, Work[T]]] = []
        """Heap of (place, group)."""
        self._free: list[tuple[int, int, int]] = []
        """Heap of (outstanding tokens, engine, stamp) of engines with room."""
        for engine in engines:
            self.add_engine(engine)

    def add_engine(self, engine: int) -> None:
        """Route to one more engine; ids of engines that were removed are not used again."""
        self._loads[engine] = _Load()
        self._note(engine)

    def close(self, engine: int) -> bool:
        """Route nothing more to an engine; return whether it has nothing left."""
        load = self._loads[engine]
        load.is_closed = True
        load.stamp += 1
        return not load.works

    def remove(self, engine: int) -> list[Work[T]]:
        """Forget an engine; return its groups, which wait in their old places, in that order."""
        works = sorted(self._loads.pop(engine).works, key=lambda work: work.place or 0)
        for work in works:
            self.add(work)
        return works

    def add(self, work: Work[T]) -> None:
        """Let a group wait for an engine: behind all others, or in the place it had before."""
        if work.place is None:
            work.place = self._num_added
            self._num_added += 1
        heapq.heappush(self._waiting, (work.place, work))

    def start(
        self, may_be_alone: Callable[[int], bool] = lambda _: True
    ) -> Iterator[tuple[int, Work[T]]]:
        """Yield (engine, group) for groups that can begin now, until none can.

        `may_be_alone` tells whether an empty engine may take a group that is to be alone.
        """
        while self._waiting and self._free:
            _, engine, stamp = self._free[0]
            load = self._loads.get(engine)
            if load is None or stamp != load.stamp:
                heapq.heappop(self._free)
                continue
            _, work = self._waiting[0]
            # If this engine has groups, so has every other one.
            if work.is_alone and (load.works or not may_be_alone(engine)):
                return
            heapq.heappop(self._free)
            heapq.heappop(self._waiting)
            load.works.add(work)
            load.sequences += self._share(work)
            load.tokens += work.tokens
            self._note(engine)
            yield engine, work

    def finish(self, engine: int, work: Work[T]) -> None:
        """Take a generated group off its engine."""
        load = self._loads[engine]
        load.works.remove(work)
        load.sequences -= self._share(work)
        load.tokens -= work.tokens
        self._note(engine)

    def _share(self, work: Work[T]) -> int:
        """Return how much of an engine's room a group takes: all, where it is to be alone."""
        return self._limit if work.is_alone else work.sequences

    def _note(self, engine: int) -> None:
        load = self._loads[engine]
        load.stamp += 1
        if load.sequences < self._limit and not load.is_closed:
            heapq.heappush(self._free, (load.tokens, engine, load.stamp))
