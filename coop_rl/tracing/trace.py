"""Spans of time that actors record while a run is profiled, as a Chrome/Perfetto trace.

    with span("rl"): ...            costs one look at a flag while nothing is recorded
    start_recording() ... take_spans()      in every process
    chrome_trace({actor: spans})            in the driver: one process track per actor

Times are wall-clock nanoseconds, so spans of processes of one host lie on one axis; between hosts
they are as far off as the hosts' clocks.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# A wall clock that can be set back would give spans that end before they start: read it once.
_OFFSET_NS = time.time_ns() - time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Span:
    """Something that one actor did, from its start to its end."""

    name: str
    """What was done, such as "rl"."""
    start_ns: int
    """Wall-clock nanoseconds since 1970."""
    end_ns: int
    """The same, when it ended."""
    thread: int = 0
    """The thread that did it; spans of one thread nest. 0 where that is of no interest."""
    overlaps: bool = False
    """Whether several may be open at once in one thread, as requests of an engine are."""


class Recorder:
    """The spans of one process; safe across threads."""

    def __init__(self) -> None:
        """Record nothing until `start`."""
        self.is_on = False
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Record from now on; spans left from before are dropped."""
        with self._lock:
            self._spans.clear()
        self.is_on = True

    def stop(self) -> None:
        """Record nothing more; what was recorded stays until it is taken."""
        self.is_on = False

    def add(self, item: Span) -> None:
        """Keep a span."""
        with self._lock:
            self._spans.append(item)

    def take(self) -> list[Span]:
        """Return and forget the spans that have ended."""
        with self._lock:
            taken, self._spans = self._spans, []
        return taken


_recorder = Recorder()
start_recording = _recorder.start
stop_recording = _recorder.stop
take_spans = _recorder.take


def now_ns() -> int:
    """Return this process's time on the axis of all spans."""
    return time.monotonic_ns() + _OFFSET_NS


@contextmanager
def span(name: str, overlaps: bool = False) -> Iterator[None]:
    """Record the time spent inside, also when it raises; nothing while recording is off.

    Args:
        name: What is done, such as "rl".
        overlaps: Whether several may be open at once in one thread, as coroutines are.
    """
    if not _recorder.is_on:
        yield
        return
    start = now_ns()
    try:
        yield
    finally:
        _recorder.add(Span(name, start, now_ns(), threading.get_ident(), overlaps))


def chrome_trace(tracks: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """Return the JSON object that chrome://tracing and ui.perfetto.dev open.

    Args:
        tracks: Spans per actor; an actor without any keeps its empty track.

    Returns:
        One process per actor in the given order, one lane per thread, times in microseconds since
        the first span. Overlapping spans are asynchronous events, which get lanes of their own.
    """
    first = min((s.start_ns for spans in tracks.values() for s in spans), default=0)
    events: list[dict[str, Any]] = []
    for pid, (actor, spans) in enumerate(tracks.items(), start=1):
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": actor}})
        order = {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
        events.append(order)
        lanes: dict[int, int] = {}
        for number, item in enumerate(sorted(spans, key=lambda s: (s.start_ns, -s.end_ns))):
            lane = lanes.setdefault(item.thread, len(lanes) + 1)
            start_us = (item.start_ns - first) / 1000
            base = {"name": item.name, "cat": actor, "pid": pid, "tid": lane, "ts": start_us}
            if item.overlaps:
                identity = {"id": f"{pid}.{number}"}
                end_us = (item.end_ns - first) / 1000
                events.append(base | identity | {"ph": "b"})
                events.append(base | identity | {"ph": "e", "ts": end_us})
            else:
                events.append(base | {"ph": "X", "dur": (item.end_ns - item.start_ns) / 1000})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def busy_ns(spans: Sequence[Span], start_ns: int, end_ns: int) -> int:
    """Return how much of [start_ns, end_ns] at least one span covers, in nanoseconds."""
    covered, reached = 0, start_ns
    for item in sorted(spans, key=lambda s: s.start_ns):
        begin, end = max(item.start_ns, reached), min(item.end_ns, end_ns)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


def self_ns(spans: Sequence[Span]) -> dict[str, int]:
    """Return self time in nanoseconds per name: without what nested spans of the thread took.

    Overlapping spans are counted whole: of requests at the same time no one owns the time.
    """
    totals: dict[str, int] = {}
    stacks: dict[int, list[Span]] = {}
    for item in sorted(spans, key=lambda s: (s.start_ns, -s.end_ns)):
        length = item.end_ns - item.start_ns
        totals[item.name] = totals.get(item.name, 0) + length
        if item.overlaps:
            continue
        stack = stacks.setdefault(item.thread, [])
        while stack and stack[-1].end_ns <= item.start_ns:
            stack.pop()
        if stack:
            totals[stack[-1].name] -= length
        stack.append(item)
    return totals
