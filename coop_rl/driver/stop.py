"""Stopping at a step boundary when the user asks for it.

The boundary of step k is where theta, theta-hat and w all are at version k. While rollouts are
generated the learners still stand there, so a stop need not wait for them; once they train, it
waits for the end of their step.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from coop_rl.distributed.calls import breaking_off
from coop_rl.errors import Interrupted
from coop_rl.files import point_nowhere


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a run to stop: Ctrl-C, a scheduler's, and a lost terminal's.

    Under nohup the last one is ignored, and stays so.
    """
    asked = [signal.SIGINT, signal.SIGTERM]
    return asked if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*asked, signal.SIGHUP]


class StopAtBoundary(Exception):  # noqa: N818 - not a failure
    """The user asked to stop while the learners stood at a step boundary."""


class StopRequest:
    """Whether the user asked the run to stop.

    Before training begins a request ends it at once, since there is nothing to save; afterwards a
    second one does.
    """

    def __init__(self) -> None:
        self._num_signals = 0
        self._is_at_boundary = False
        self._is_training = False
        self._terminals: list[int] = []

    @property
    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._num_signals > 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._num_signals += 1
        if number == signal.SIGHUP:
            # The terminal is gone: writing to it would fail, and end the run before it is saved.
            point_nowhere(self._terminals)

    def begin_training(self) -> None:
        """From now on a request waits for a boundary, which is saved.

        Raises:
            Interrupted: A stop was asked for already.
        """
        self.check()
        self._is_training = True

    def check(self) -> None:
        """Break off a wait where that is asked for and safe.

        Raises:
            StopAtBoundary: The learners stand at a boundary, which can be saved.
            Interrupted: It is the second request, or nothing was trained yet.
        """
        if self._num_signals > 1:
            raise Interrupted("stopped at once; the last checkpoint stands")
        if self.is_set and self._is_at_boundary:
            raise StopAtBoundary
        if self.is_set and not self._is_training:
            raise Interrupted("nothing was trained yet")

    @contextmanager
    def at_boundary(self) -> Iterator[None]:
        """Let a stop break off waits inside; the learners must not be changing."""
        self._is_at_boundary = True
        try:
            yield
        finally:
            self._is_at_boundary = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT, SIGTERM and, but for a run under nohup, SIGHUP while the loop runs."""
        self._terminals = [stream for stream in (0, 1, 2) if os.isatty(stream)]
        previous = {number: signal.signal(number, self._on_signal) for number in stop_signals()}
        try:
            with breaking_off(self.check):
                yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
