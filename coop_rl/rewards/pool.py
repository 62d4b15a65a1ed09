"""A pool of processes that judge responses, each with a hard limit in time and memory.

Signals and threads cannot bound a verifier: `signal.alarm` works on the main thread only (off it,
every score silently became 0 for other projects), and a thread cannot be killed. A process can.

    batch of answers -> worker, BATCH_LIMIT_S -> verdicts
        took too long, or the worker died  -> each answer alone, `time_limit_s` -> its own verdict

So one hostile answer costs its own verdict and a second or two, never its neighbours' verdicts.
"""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from coop_rl.config.reward import RewardSection
from coop_rl.errors import RunError
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.verdict import CRASHED, TIMEOUT, Answer, Verdict, Verifier
from coop_rl.rewards.worker import start_worker, verify_batch

MEMORY_BYTES = 1 << 30
"""Address space a worker may take beyond its start; a hostile answer took sympy to 721 MB."""
BATCH_SIZE = 32
"""Answers per task: one answer a task would spend most of the time on passing messages."""
BATCH_LIMIT_S = 0.5
"""A batch slower than this is taken apart; an honest one takes milliseconds."""
START_LIMIT_S = 60.0
"""Longest wait for a worker process to come up, on top of the limits of what it runs."""
JOIN_LIMIT_S = 5.0
CANARY_GOLD = "42"

_Failure = Literal["timeout", "lost"]


class RewardPool:
    """Judges answers in order and never raises because of what a model wrote.

    May be made and used on any thread; calls are served one after the other.
    """

    def __init__(self, section: RewardSection, verifier: Verifier | None = None) -> None:
        """Start the processes and let them judge a right and a wrong answer.

        Args:
            section: Kind, marker, number of workers, time limit.
            verifier: Used instead of the one `section.kind` names; of importable functions.

        Raises:
            RunError: A gold answer does not score 1, or a wrong one does not score 0.
        """
        self._verifier = verifier or VERIFIERS[section.kind]
        self._kind = section.kind
        self._settings = settings_of(section)
        self._num_workers = section.num_workers
        self._time_limit_s = section.time_limit_s
        self._lock = threading.Lock()
        self._pool = self._start()
        self._check_canary()

    def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Return one verdict per answer, in order.

        Raises:
            RunError: The worker processes cannot be started again.
        """
        with self._lock:
            size = max(1, min(BATCH_SIZE, -(-len(answers) // self._num_workers)))
            if size == 1:
                return self._score_alone(answers)
            batches = [answers[i : i + size] for i in range(0, len(answers), size)]
            limit_s = min(BATCH_LIMIT_S, self._time_limit_s)
            verdicts: list[Verdict] = []
            for batch, result in zip(batches, self._run(batches, limit_s), strict=True):
                verdicts += result if isinstance(result, list) else self._score_alone(batch)
            return verdicts

    def close(self) -> None:
        """End the worker processes."""
        self._end(self._pool)

    def _score_alone(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Give every answer a task of its own, so that only the culprit pays."""
        tasks = [[answer] for answer in answers]
        results = self._run(tasks, self._time_limit_s)
        lost = [i for i, result in enumerate(results) if result == "lost"]
        # A worker may die for reasons of the machine's: one more chance, then the answer pays.
        for i in lost:
            (results[i],) = self._run([tasks[i]], self._time_limit_s)
        return [
            result[0] if isinstance(result, list) else TIMEOUT if result == "timeout" else CRASHED
            for result in results
        ]

    def _run(
        self, batches: Sequence[Sequence[Answer]], limit_s: float
    ) -> list[list[Verdict] | _Failure]:
        """Run each batch as one task; returns verdicts or why there are none, in order."""
        try:
            futures = [self._schedule(batch, limit_s) for batch in batches]
        except RuntimeError:  # pebble gives up a pool one of whose workers died while idle
            self._restart()
            futures = [self._schedule(batch, limit_s) for batch in batches]
        results: list[list[Verdict] | _Failure] = []
        is_stuck = False
        for future in futures:
            if is_stuck and not future.done():
                results.append("lost")
                continue
            results.append(self._result(future, limit_s))
            is_stuck = is_stuck or not future.done()
        if is_stuck or ("lost" in results and not self._pool.active):
            self._restart()
        return results

    def _schedule(self, batch: Sequence[Answer], limit_s: float) -> "ProcessFuture[list[Verdict]]":
        arguments = (self._verifier.verify, self._settings, list(batch))
        return self._pool.schedule(verify_batch, args=arguments, timeout=limit_s)

    def _result(
        self, future: "ProcessFuture[list[Verdict]]", limit_s: float
    ) -> list[Verdict] | _Failure:
        # Everything submitted before has ended, so this task runs or is the next to run.
        try:
            return future.result(timeout=2 * limit_s + START_LIMIT_S)
        except TimeoutError:
            return "timeout" if future.done() else "lost"
        except (ProcessExpired, BrokenProcessPool, CancelledError, RuntimeError):
            return "lost"

    def _start(self) -> ProcessPool:
        # Not fork: the caller may have threads (a Ray actor has many) that hold locks.
        return ProcessPool(
            max_workers=self._num_workers,
            initializer=start_worker,
            initargs=(os.getpid(), MEMORY_BYTES),
            context=multiprocessing.get_context("spawn"),
        )

    def _restart(self) -> None:
        broken, self._pool = self._pool, self._start()
        self._end(broken)
        self._check_canary()

    @staticmethod
    def _end(pool: ProcessPool) -> None:
        pool.stop()  # type: ignore[no-untyped-call]
        # pebble's own join has no limit once stopped; workers end with this process at the latest.
        joining = threading.Thread(target=pool.join, daemon=True)
        joining.start()
        joining.join(JOIN_LIMIT_S)

    def _check_canary(self) -> None:
        """Refuse a verifier that fails a right answer or passes an empty one.

        Raises:
            RunError: With what was expected.
        """
        right = self._verifier.render(CANARY_GOLD, self._settings)
        for text, expected in ((right, 1.0), ("", 0.0)):
            future = self._schedule([Answer(text, CANARY_GOLD)], self._time_limit_s)
            try:
                (verdict,) = future.result(timeout=self._time_limit_s + START_LIMIT_S)
                got = f"{verdict.value:g} ({verdict.status})"
                is_as_expected = verdict.status == "scored" and verdict.value == expected
            except (TimeoutError, ProcessExpired, BrokenProcessPool, RuntimeError) as error:
                got, is_as_expected = f"{type(error).__name__}: {error}", False
            if not is_as_expected:
                self._end(self._pool)
                raise RunError(
                    f"the verifier {self._kind} must give {expected:g} to the response {text!r} "
                    f"with gold answer {CANARY_GOLD!r}, got {got}; "
                    "check reward.kind and reward.marker"
                )
