"""What an actor says of itself while it works: its phase, and how its processes are.

    Shell's methods --noted--> phases --beat--> Beat --> distributed.watch, in the driver

A beat runs in a concurrency group of its own, so it answers beside a busy method, also one that
computes in Python. Who is stopped, or is inside C code that keeps Python's lock, does not answer.
"""

import faulthandler
import inspect
import os
import signal
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from itertools import count
from typing import Any

import psutil

BEAT_GROUP = "beat"
"""Ray's concurrency group, which has a thread that nothing else uses."""
STACK_SIGNAL = signal.SIGUSR1
REMEMBERED = 32
"""Lengths of a phase that are kept for its median."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that an actor started, or one of those that these started."""

    pid: int
    name: str
    state: str
    """psutil's word: `stopped`, `zombie`, `disk-sleep`, ...; `tracing-stop` under a debugger."""
    cpu_s: float
    """Seconds of CPU it has used."""


@dataclass(frozen=True, slots=True)
class Beat:
    """How an actor is."""

    node_id: str
    """The node it runs on."""
    pid: int
    """Its process there."""
    is_started: bool
    """Whether its `start` is over."""
    phase: str
    """The method it has been in for the longest, in words; empty where it waits to be called."""
    seconds: float
    """How long it has been in it, or has been without any."""
    usual_s: float | None
    """Median of how long the phase took before; None: it was not yet seen often enough."""
    num_open: int
    """Calls it has begun and not ended."""
    num_begun: int
    """Calls it has begun in its life."""
    version: str
    """Of the weights it serves or holds; empty where it has none."""
    children: tuple[Child, ...]


class Phases:
    """The calls a process is in; safe across threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with none."""
        self._clock = clock
        self._numbers = count()
        self._open: dict[int, tuple[str, float]] = {}
        self._lengths: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._num_begun, self._ended_at = 0, clock()
        self._lock = threading.Lock()
        self.is_started = False
        self.version = ""

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Note that a call begins, and how long it took."""
        number, began = next(self._numbers), self._clock()
        with self._lock:
            self._open[number] = name, began
            self._num_begun += 1
        try:
            yield
            self.is_started = self.is_started or name == "start"
        finally:
            with self._lock:
                del self._open[number]
                self._ended_at = self._clock()
                self._lengths[name].append(self._ended_at - began)

    def beat(self, node_id: str, children: tuple[Child, ...]) -> Beat:
        """Return what goes on now."""
        with self._lock:
            phase, since = next(iter(self._open.values()), ("", self._ended_at))
            lengths = list(self._lengths[phase]) if phase in self._lengths else []
            num_open, num_begun = len(self._open), self._num_begun
        return Beat(
            node_id=node_id,
            pid=os.getpid(),
            is_started=self.is_started,
            phase=phase,
            seconds=self._clock() - since,
            usual_s=statistics.median(lengths) if len(lengths) > 2 else None,
            num_open=num_open,
            num_begun=num_begun,
            version=self.version,
            children=children,
        )


phases = Phases()
"""Those of this process, which holds one actor."""


def inside(name: str) -> AbstractContextManager[None]:
    """Note a call of this process; a function, since Ray cannot copy what holds a lock."""
    return phases.inside(name)


def noted(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return an actor's method that notes its name, in words, while it runs."""
    name = method.__name__.replace("_", " ")

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with inside(name):
            return method(*args, **kwargs)

    @wraps(method)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        with inside(name):
            return await method(*args, **kwargs)

    return run_async if inspect.iscoroutinefunction(method) else run


def children_of(pid: int) -> tuple[Child, ...]:
    """Return all processes below one."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                cpu_s = round(times.user + times.system, 1)
                found.append(Child(process.pid, process.name(), process.status(), cpu_s))
    return tuple(found)


def show_stacks_on_signal() -> None:
    """Write all threads' stacks to stderr on STACK_SIGNAL, also while C code keeps Python's lock.

    Processes that are forked from this one do the same.
    """
    faulthandler.register(STACK_SIGNAL, file=2, all_threads=True)
