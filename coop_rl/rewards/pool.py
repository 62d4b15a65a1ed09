"""A pool of processes that judge responses, each with a hard limit in time and memory.

Signals and threads cannot bound a verifier: `signal.alarm` works on the main thread only (off it,
every score silently became 0 for other projects), and a thread cannot be killed. A process can.

    answers -> batches, first come first served -> a free WorkerProcess each -> verdicts, in order

So one hostile answer costs its own verdict, its limit and a new process, never its neighbours'
verdicts.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from queue import SimpleQueue

from coop_rl.config.reward import RewardSection
from coop_rl.errors import RunError
from coop_rl.rewards.process import WorkerProcess
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.rewards.worker import WorkerSettings
from coop_rl.types import Reward

ANSWERS_PER_BATCH = 16
"""Answers a worker takes at once; of several callers' batches the others take turns."""


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
        """Start the processes; each first judges a right and a wrong answer (`worker`).

        Args:
            section: Section `reward` of the config.
            verifier: Used instead of the one `section.kind` names; made of importable functions.
            kinds: Names of other verifiers that answers may ask for.

        Raises:
            RunError: A process cannot start, a gold answer does not score 1, or a wrong one does
                not score 0.
        """
        self._section = section
        verifiers = VERIFIERS | {"": verifier or VERIFIERS[section.kind]}
        used = [verifiers[kind] for kind in ("", *kinds)]
        judge = settings_of(section)
        canaries = [_canary(verifiers[kind], kind, judge) for kind in ("", *kinds)]
        settings = WorkerSettings(
            parent_pid=os.getpid(),
            memory_bytes=section.memory_limit_mib << 20,
            modules=tuple(dict.fromkeys(module for v in used for module in v.modules)),
            functions=section.functions,
            verifiers=verifiers,
            judge=judge,
            canaries=tuple(canary for canary in canaries if canary),
        )
        self._workers = [
            WorkerProcess(settings, section.time_limit_s) for _ in range(section.num_workers)
        ]
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        # A thread for each worker, so a thread that runs always finds one idle.
        self._threads = ThreadPoolExecutor(section.num_workers, thread_name_prefix="reward")
        try:
            for worker in self._workers:
                worker.wait_until_ready()
                self._idle.put(worker)
        except RunError:
            self.close()
            raise

    def score(self, answers: Sequence[Answer]) -> list[Reward]:
        """Return one verdict per answer, in order.

        Raises:
            RunError: The worker processes cannot be started again, or the pool was closed.
        """
        if self._workers[0].takes_batches:  # a function sees all responses to a prompt
            batches = [list(group) for _, group in groupby(answers, lambda answer: answer.prompt)]
        else:
            size = max(1, min(ANSWERS_PER_BATCH, -(-len(answers) // self._section.num_workers)))
            batches = [list(answers[i : i + size]) for i in range(0, len(answers), size)]
        return [verdict for done in self._threads.map(self._judge, batches) for verdict in done]

    def close(self) -> None:
        """End the worker processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _judge(self, batch: Sequence[Answer]) -> list[Reward]:
        worker = self._idle.get()
        try:
            return worker.judge(batch)
        finally:
            self._idle.put(worker)


def _canary(verifier: Verifier, kind: str, settings: VerifierSettings) -> Answer | None:
    """Return an answer that is right; None where nobody knows one (a user's function)."""
    if verifier.render is None:
        return None
    text = verifier.render(verifier.canary_gold, settings)
    return Answer(text, verifier.canary_gold, verifier.canary_details, kind)
