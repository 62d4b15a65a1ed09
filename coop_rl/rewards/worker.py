"""What runs in the pool's processes: limits first, then answers. Imports nothing heavy."""

import contextlib
import importlib
import logging
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from coop_rl.errors import ConfigError, RunError
from coop_rl.rewards.terms import evaluate_term
from coop_rl.rewards.user import (
    LARGEST_REWARD,
    BatchFunction,
    load_function,
    with_batch_results,
)
from coop_rl.rewards.verdict import CRASHED, Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

ORPHAN_CHECK_S = 1.0
MOST_MESSAGE_CHARACTERS = 200
"""Characters of an error's message that are logged; it may hold the model's text."""
LOGGED: set[str] = set()
"""Places in the code whose failure this process has logged."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker process is started with."""

    parent_pid: int
    """Process that holds the pool; the worker ends with it."""
    memory_bytes: int
    """Address space it may take beyond what it has after its imports."""
    modules: tuple[str, ...]
    """What its verifiers import, so that the first answer does not pay for it."""
    functions: tuple[str, ...]
    """The user's functions, loaded at the start for the same reason."""
    verifiers: Mapping[str, Verifier]
    """Verifiers by the name an answer gives; the empty name stands for that of `reward.kind`."""
    judge: VerifierSettings
    canaries: tuple[Answer, ...]
    """Right answers, which each process judges at its start."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a process came up."""

    problem: str
    """Why it cannot judge; empty: it can."""
    takes_batches: bool = False
    """Whether a function of the user's takes all responses to a prompt at once."""


def run_worker(connection: Connection, settings: WorkerSettings) -> None:
    """Send a Start when ready; then one verdict for each answer of each list that comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_die_with, args=(settings.parent_pid,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent has closed its end
        try:
            _prepare(settings)
        except (RunError, ConfigError, ImportError) as error:
            connection.send(Start(str(error)))
            return
        functions = map(load_function, settings.functions)
        connection.send(Start("", any(isinstance(f, BatchFunction) for f in functions)))
        while True:
            answers: list[Answer] = connection.recv()
            for answer in with_batch_results(answers, settings.judge):
                connection.send(judge(settings.verifiers[answer.verifier], settings.judge, answer))


def _prepare(settings: WorkerSettings) -> None:
    for module in settings.modules:
        importlib.import_module(module)
    for function in settings.functions:
        load_function(function)
    _check_verifiers(settings)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + settings.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _check_verifiers(settings: WorkerSettings) -> None:
    """Refuse a verifier that fails a right answer or passes an empty one; terms do not count.

    Parsers also build their tables at the first answer, which then need not pay for it.

    Raises:
        RunError: With what was expected.
    """
    plain = replace(settings.judge, weight=1.0, terms=())
    for canary in settings.canaries:
        for answer, is_right in ((canary, True), (replace(canary, text=""), False)):
            verdict = judge(settings.verifiers[answer.verifier], plain, answer)
            if verdict.status != "scored" or verdict.is_correct != is_right:
                raise RunError(
                    f"the verifier {answer.verifier or plain.kind} must call the response "
                    f"{answer.text!r} with gold answer {answer.gold!r} "
                    f"{'right' if is_right else 'wrong'}, got {verdict.value:g} "
                    f"({verdict.status}); check reward.kind and reward.marker"
                )


def _die_with(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def judge(verifier: Verifier, settings: VerifierSettings, answer: Answer) -> Reward:
    """Return the verdict on one answer; whatever fails makes it `crashed`."""
    try:
        verdict = verifier.verify(answer, settings)
        if settings.terms or settings.weight != 1.0:
            verdict = _weigh(verdict, settings, answer)
    except BaseException as error:  # hostile text: even SystemExit costs this answer only
        _log_crash(error)
        return CRASHED
    if abs(verdict.value) <= LARGEST_REWARD:
        return verdict
    _log_once(f"the reward is not within {LARGEST_REWARD:g} of 0", f"{verdict.value:g}")
    return CRASHED


def _weigh(verdict: Reward, settings: VerifierSettings, answer: Answer) -> Reward:
    """Add the weighted terms."""
    value = settings.weight * verdict.value
    parts = [("correct", verdict.value)]
    for term in settings.terms:
        part = evaluate_term(term, answer)
        parts.append((term.name, part))
        value += term.weight * part
    return replace(verdict, value=value, parts=tuple(parts))


def _log_crash(error: BaseException) -> None:
    with contextlib.suppress(Exception):  # memory may be used up, and str(error) is the user's code
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
        _log_once(place, str(error)[:MOST_MESSAGE_CHARACTERS])


def _log_once(place: str, message: str) -> None:
    """Warn of the first failure at each place: a run may have thousands of them."""
    if place not in LOGGED:
        LOGGED.add(place)
        logging.getLogger(__name__).warning("a response crashed: %s %r", place, message)
