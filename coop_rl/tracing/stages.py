"""Timers around the verbs: `with stages.stage("generate")` becomes the metric time/generate_s
and, while a run is profiled, a span of the driver.

The roles in `driver/` open stages; `observability.observer` takes the sums once a step and writes
them into the step's row.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from coop_rl.tracing.trace import span


class Stages:
    """Sums of seconds per stage and of counts, since they were last taken; safe across threads."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._sums: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to time/<name>_s, also when it raises."""
        started = time.monotonic()
        try:
            with span(name):
                yield
        finally:
            self.count(f"time/{name}_s", time.monotonic() - started)

    def count(self, metric: str, amount: float) -> None:
        """Add to a metric by its whole name, such as sync/bytes."""
        with self._lock:
            self._sums[metric] = self._sums.get(metric, 0.0) + amount

    def note(self, metric: str, value: float) -> None:
        """Set a metric that is no sum, by its whole name."""
        with self._lock:
            self._sums[metric] = value

    def take(self, prefix: str = "") -> dict[str, float]:
        """Return and reset the sums whose metric starts with `prefix`."""
        with self._lock:
            taken = {name: value for name, value in self._sums.items() if name.startswith(prefix)}
            for name in taken:
                del self._sums[name]
        return taken
