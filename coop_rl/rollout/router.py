"""Which engine gets which group: the one that owes the fewest tokens, as late as possible.

Groups wait here and not in front of an engine, because nobody knows how long responses get: an
engine that is done early takes the next one. A prompt's samples stay together, so that they share
its key-value cache.
"""

import heapq
import itertools
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Router(Generic[Job]):
    """Jobs on engines and in the queue; O(log n) for each."""

    def __init__(self, num_engines: int, room: int) -> None:
        """Give each engine jobs until its sequences fill `room`; at least one job."""
        self._room = room
        self._numbers = itertools.count()
        self._queue: list[tuple[int, int, int, int, Job]] = []
        self._tokens = [0] * num_engines
        self._sequences = [0] * num_engines
        self._idlest = [(0, engine) for engine in range(num_engines)]

    @property
    def num_queued(self) -> int:
        """Jobs no engine has yet."""
        return len(self._queue)

    def add(self, job: Job, num_sequences: int, num_tokens: int, *, is_urgent: bool) -> None:
        """Queue a job; urgent ones go first, else first come, first served.

        Args:
            job: Whatever the caller calls it.
            num_sequences: Samples.
            num_tokens: At most, with the prompt.
            is_urgent: Whether somebody waits for it.
        """
        number = next(self._numbers)
        heapq.heappush(self._queue, (not is_urgent, number, num_sequences, num_tokens, job))

    def assign(self) -> tuple[Job, int] | None:
        """Return the next job and its engine; None: the queue is empty, or all engines are full."""
        if not self._queue:
            return None
        # Entries of the heap that a later change has made stale are skipped.
        while self._idlest[0][0] != self._tokens[self._idlest[0][1]]:
            heapq.heappop(self._idlest)
        engine = self._idlest[0][1]
        _, _, num_sequences, num_tokens, job = self._queue[0]
        if self._sequences[engine] and self._sequences[engine] + num_sequences > self._room:
            return None
        heapq.heappop(self._queue)
        self._change(engine, num_sequences, num_tokens)
        return job, engine

    def done(self, engine: int, num_sequences: int, num_tokens: int) -> None:
        """Note that an engine has finished a job of that size."""
        self._change(engine, -num_sequences, -num_tokens)

    def _change(self, engine: int, num_sequences: int, num_tokens: int) -> None:
        self._sequences[engine] += num_sequences
        self._tokens[engine] += num_tokens
        heapq.heappush(self._idlest, (self._tokens[engine], engine))
