"""One process of the reward pool, seen from its parent.

    answers -> pipe of its own -> verdicts, one by one
        no verdict within the limit -> killed, that answer is `timeout`, the next go on in a new one
        the process died            -> a new one judges that answer again, MOST_LOST_PROCESSES times

Nothing is shared between workers. In pools that share a pipe (pebble, concurrent.futures) a worker
killed while it holds the pipe's lock stops all others: pebble waits a minute, then gives up.
"""

import multiprocessing
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from coop_rl.errors import RunError
from coop_rl.rewards.verdict import CRASHED, TIMEOUT, Answer
from coop_rl.rewards.worker import Start, WorkerSettings, run_worker
from coop_rl.types import Reward

START_LIMIT_S = 60.0
"""Longest wait for a process to come up, its imports included."""
JOIN_LIMIT_S = 5.0
MOST_LOST_PROCESSES = 3
"""Times an answer may lose its process before it pays: a machine out of memory, or an operator,
kills processes too, and not because of the answer."""


class WorkerProcess:
    """A process that is replaced when it dies; used by one thread at a time."""

    def __init__(self, settings: WorkerSettings, time_limit_s: float) -> None:
        """Launch it; does not wait until it is ready."""
        self._settings = settings
        self._time_limit_s = time_limit_s
        self._is_closed = False
        self.takes_batches = False
        """Whether a list of answers is judged as one; known once it is ready."""
        self._is_ready: bool
        self._connection: Connection
        self._process: SpawnProcess
        self._lock = threading.Lock()
        self._launch()

    def wait_until_ready(self) -> None:
        """Wait for its imports; a process that dies meanwhile is replaced.

        Raises:
            RunError: It says it cannot start, or none came up within START_LIMIT_S.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while not (self._is_ready and self._process.is_alive()):
            if self._is_ready:
                self._restart()
            try:
                if self._connection.poll(max(0.0, deadline - time.monotonic())):
                    start: Start = self._connection.recv()
                    if start.problem:
                        raise RunError(f"the reward's processes cannot start: {start.problem}")
                    self._is_ready, self.takes_batches = True, start.takes_batches
                    return
            except (EOFError, OSError):  # killed from outside while it started
                self._restart()
            if time.monotonic() >= deadline:
                raise RunError(
                    f"no process of the reward came up within {START_LIMIT_S:g} s; "
                    "look for memory and for what kills them"
                )

    def judge(self, answers: Sequence[Answer]) -> list[Reward]:
        """Return one verdict per answer, in order.

        Where functions take a batch, the answers have their limits together, and share a timeout
        or a lost process.

        Raises:
            RunError: The process cannot be started again.
        """
        verdicts: list[Reward] = []
        losses = 0
        while len(verdicts) < len(answers):
            self.wait_until_ready()
            together = len(answers) - len(verdicts) if self.takes_batches else 1
            try:
                self._connection.send(answers[len(verdicts) :])
                while len(verdicts) < len(answers):
                    if not self._connection.poll(self._time_limit_s * together):
                        verdicts += [TIMEOUT] * min(together, len(answers) - len(verdicts))
                        losses = 0
                        self._restart()
                        break
                    verdicts.append(self._connection.recv())
                    losses = 0
            except (EOFError, OSError):  # the process died
                self._restart()
                losses += 1
                if losses == MOST_LOST_PROCESSES:
                    verdicts += [CRASHED] * min(together, len(answers) - len(verdicts))
                    losses = 0
        return verdicts

    def close(self) -> None:
        """End the process, also while another thread waits for a verdict."""
        with self._lock:
            self._is_closed = True
            self._kill()

    def _restart(self) -> None:
        with self._lock:
            self._kill()
            self._connection.close()
            if self._is_closed:
                raise RunError("the reward pool is closed")
            self._launch()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join(JOIN_LIMIT_S)

    def _launch(self) -> None:
        # Not fork: the caller may have threads (a Ray actor has many) that hold locks.
        context = multiprocessing.get_context("spawn")
        self._is_ready = False
        self._connection, other_end = context.Pipe()
        self._process = context.Process(
            target=run_worker, args=(other_end, self._settings), daemon=True
        )
        self._process.start()
        # Held by the worker alone, so that its death ends the pipe.
        other_end.close()
