"""What runs in the pool's processes: limits first, then answers. Imports nothing heavy."""

import importlib
import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from coop_rl.rewards.terms import evaluate_term
from coop_rl.rewards.verdict import CRASHED, Answer, JudgeSettings, Verdict, Verifier

ORPHAN_CHECK_S = 1.0


def start_worker(parent_pid: int, memory_bytes: int, modules: Sequence[str]) -> None:
    """Prepare a fresh process: die at once when told to, die with the parent, and stay small.

    Args:
        parent_pid: Process that holds the pool.
        memory_bytes: Address space it may take beyond what it has after its imports.
        modules: What its verifiers import, so that the first answer does not pay for it.
    """
    # pebble's own SIGTERM handler is Python code, which never runs while a verifier sits in C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with, args=(parent_pid,), daemon=True).start()
    for module in modules:
        importlib.import_module(module)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_with(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def judge_batch(
    verifiers: Sequence[Verifier], settings: JudgeSettings, answers: Sequence[Answer]
) -> list[Verdict]:
    """Return one verdict per answer, in order; `verifiers` has one for each answer."""
    return [_judge(v, settings, a) for v, a in zip(verifiers, answers, strict=True)]


def _judge(verifier: Verifier, settings: JudgeSettings, answer: Answer) -> Verdict:
    try:
        verdict = verifier.verify(answer, settings.verifier)
        if settings.terms or settings.weight != 1.0:
            verdict = _weigh(verdict, settings, answer)
    except BaseException:  # the text is hostile: even SystemExit must cost this answer only
        return CRASHED
    is_finite = isinstance(verdict, Verdict) and abs(verdict.value) < float("inf")
    return verdict if is_finite else CRASHED


def _weigh(verdict: Verdict, settings: JudgeSettings, answer: Answer) -> Verdict:
    """Add the weighted terms."""
    value = settings.weight * verdict.value
    parts = [("correct", verdict.value)]
    for term in settings.terms:
        part = evaluate_term(term, answer)
        parts.append((term.name, part))
        value += term.weight * part
    return Verdict(
        value,
        verdict.is_correct,
        verdict.status,
        verdict.answer,
        verdict.has_format,
        tuple(parts),
    )
