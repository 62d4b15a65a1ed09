"""What runs in the pool's processes: limits first, then answers. Imports nothing heavy."""

import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from coop_rl.rewards.verdict import CRASHED, Answer, Verdict, VerifierSettings, Verify

ORPHAN_CHECK_S = 1.0


def start_worker(parent_pid: int, memory_bytes: int) -> None:
    """Prepare a fresh process: die at once when told to, die with the parent, and stay small.

    Args:
        parent_pid: Process that holds the pool.
        memory_bytes: Address space it may take beyond what it has now.
    """
    # pebble's own SIGTERM handler is Python code, which never runs while a verifier sits in C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_die_with, args=(parent_pid,), daemon=True).start()


def _die_with(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def verify_batch(
    verify: Verify, settings: VerifierSettings, answers: Sequence[Answer]
) -> list[Verdict]:
    """Return one verdict per answer, in order; a verifier that raises means `crashed`."""
    return [_verify(verify, settings, answer) for answer in answers]


def _verify(verify: Verify, settings: VerifierSettings, answer: Answer) -> Verdict:
    try:
        verdict = verify(answer, settings)
    except BaseException:  # the text is hostile: even SystemExit must cost this answer only
        return CRASHED
    is_finite = isinstance(verdict, Verdict) and abs(verdict.value) < float("inf")
    return verdict if is_finite else CRASHED
