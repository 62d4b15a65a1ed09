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
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Literal

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from coop_rl.config.reward import RewardSection
from coop_rl.errors import RunError
from coop_rl.rewards.registry import VERIFIERS, judge_settings
from coop_rl.rewards.verdict import CRASHED, TIMEOUT, Answer, Verdict, Verifier
from coop_rl.rewards.worker import judge_batch, start_worker

BATCH_SIZE = 16
"""Answers per task: one answer a task would spend most of the time on passing messages."""
BATCH_LIMIT_S = 2.0
"""A batch slower than this is taken apart; an honest one takes 0.2 s of `math`, less of others."""
START_LIMIT_S = 60.0
"""Longest wait for a worker process to come up, on top of the limits of what it runs."""
JOIN_LIMIT_S = 5.0
POLL_S = 0.5
MOST_LOSSES = 3
"""Times an answer may lose its worker before it pays: a machine out of memory, or an operator,
kills workers too, and not because of the answer."""

_Failure = Literal["timeout", "lost"]


class RewardPool:
    """Judges answers in order and never raises because of what a model wrote.

    May be made and used on any thread, and by several at once: a hostile answer then holds up one
    worker, and the others' answers go on.
    """

    def __init__(
        self,
        section: RewardSection,
        verifier: Verifier | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Start the processes and let them judge a right and a wrong answer.

        Args:
            section: The config's section.
            verifier: Used instead of the one `section.kind` names; of importable functions.
            kinds: Other verifiers that answers may name.

        Raises:
            RunError: A gold answer does not score 1, or a wrong one does not score 0.
        """
        self._section = section
        self._verifiers = VERIFIERS | {"": verifier or VERIFIERS[section.kind]}
        self._settings = judge_settings(section)
        used = [self._verifiers[kind] for kind in ("", *kinds)]
        self._modules = tuple(dict.fromkeys(m for v in used for m in v.modules))
        self._lock = threading.Lock()
        self._last_end = time.monotonic()
        self._pool = self._start()
        self._check_canary(self._pool)

    def score(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Return one verdict per answer, in order.

        Raises:
            RunError: The worker processes cannot be started again.
        """
        size = max(1, min(BATCH_SIZE, -(-len(answers) // self._section.num_workers)))
        if size == 1:
            return self._score_alone(answers)
        batches = [answers[i : i + size] for i in range(0, len(answers), size)]
        limit_s = min(BATCH_LIMIT_S, self._section.time_limit_s)
        verdicts: list[Verdict] = []
        for batch, result in zip(batches, self._run(batches, limit_s), strict=True):
            verdicts += result if isinstance(result, list) else self._score_alone(batch)
        return verdicts

    def close(self) -> None:
        """End the worker processes."""
        self._end(self._pool)

    def _score_alone(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Give every answer a task of its own, so that only the culprit pays."""
        results = self._run([[answer] for answer in answers], self._section.time_limit_s)
        for _ in range(MOST_LOSSES - 1):
            lost = [i for i, result in enumerate(results) if result == "lost"]
            if not lost:
                break
            # One at a time: a worker that dies takes no neighbour along.
            for i in lost:
                (results[i],) = self._run([[answers[i]]], self._section.time_limit_s)
        return [
            result[0] if isinstance(result, list) else TIMEOUT if result == "timeout" else CRASHED
            for result in results
        ]

    def _run(
        self, batches: Sequence[Sequence[Answer]], limit_s: float
    ) -> list[list[Verdict] | _Failure]:
        """Run each batch as one task; returns verdicts or why there are none, in order."""
        pool = self._pool
        try:
            futures = [self._schedule(pool, batch, limit_s) for batch in batches]
        except RuntimeError:  # pebble gives up a pool one of whose workers died while idle
            pool = self._replace(pool)
            futures = [self._schedule(pool, batch, limit_s) for batch in batches]
        results = [self._result(future, limit_s) for future in futures]
        if "lost" in results and not pool.active:
            self._replace(pool)
        return results

    def _schedule(
        self, pool: ProcessPool, batch: Sequence[Answer], limit_s: float
    ) -> "ProcessFuture[list[Verdict]]":
        verifiers = [self._verifiers[answer.verifier] for answer in batch]
        arguments = (verifiers, self._settings, list(batch))
        future: ProcessFuture[list[Verdict]] = pool.schedule(
            judge_batch, args=arguments, timeout=limit_s
        )
        return future

    def _result(
        self, future: "ProcessFuture[list[Verdict]]", limit_s: float
    ) -> list[Verdict] | _Failure:
        """Wait for a task; one that waits in line is waited for as long as others end."""
        waiting_since = time.monotonic()
        while True:
            try:
                result = future.result(timeout=POLL_S)
                self._last_end = time.monotonic()
                return result
            except TimeoutError:
                if future.done():
                    self._last_end = time.monotonic()
                    if isinstance(future.exception(), TimeoutError):
                        return "timeout"
                    continue
                latest = max(waiting_since, self._last_end)
                if time.monotonic() - latest > 2 * limit_s + START_LIMIT_S:
                    self._replace(self._pool)
                    return "lost"
            except (ProcessExpired, BrokenProcessPool, CancelledError, RuntimeError):
                self._last_end = time.monotonic()
                return "lost"

    def _start(self) -> ProcessPool:
        # Not fork: the caller may have threads (a Ray actor has many) that hold locks.
        memory_bytes = self._section.memory_limit_mib << 20
        return ProcessPool(
            max_workers=self._section.num_workers,
            initializer=start_worker,
            initargs=(os.getpid(), memory_bytes, self._modules),
            context=multiprocessing.get_context("spawn"),
        )

    def _replace(self, broken: ProcessPool) -> ProcessPool:
        """Start anew, unless another thread has done so; returns the pool to use."""
        with self._lock:
            if self._pool is broken:
                self._end(broken)
                fresh = self._start()
                self._check_canary(fresh)
                self._pool = fresh
            return self._pool

    @staticmethod
    def _end(pool: ProcessPool) -> None:
        pool.stop()  # type: ignore[no-untyped-call]
        # pebble's own join has no limit once stopped; workers end with this process at the latest.
        joining = threading.Thread(target=pool.join, daemon=True)
        joining.start()
        joining.join(JOIN_LIMIT_S)

    def _check_canary(self, pool: ProcessPool) -> None:
        """Refuse a verifier that fails a right answer or passes an empty one.

        Raises:
            RunError: With what was expected.
        """
        verifier = self._verifiers[""]
        if verifier.render is None:  # nobody knows a right answer of a user's function
            return
        gold, details = verifier.canary_gold, verifier.canary_details
        right = verifier.render(gold, self._settings.verifier)
        for text, is_right in ((right, True), ("", False)):
            answer = Answer(text, gold, details)
            future = self._schedule(pool, [answer], self._section.time_limit_s)
            try:
                (verdict,) = future.result(timeout=self._section.time_limit_s + START_LIMIT_S)
                got = f"{verdict.value:g} ({verdict.status})"
                is_as_expected = verdict.status == "scored" and verdict.is_correct == is_right
            except (TimeoutError, ProcessExpired, BrokenProcessPool, RuntimeError) as error:
                got, is_as_expected = f"{type(error).__name__}: {error}", False
            if not is_as_expected:
                self._end(pool)
                raise RunError(
                    f"the verifier {self._section.kind} must call the response {text!r} with gold "
                    f"answer {gold!r} {'right' if is_right else 'wrong'}, got {got}; "
                    "check reward.kind and reward.marker"
                )
