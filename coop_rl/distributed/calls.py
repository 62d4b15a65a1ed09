"""Waiting for remote calls with a limit, naming whoever is lost.

    member.call(method, ...) --> Call, under way --> gather(calls, limit_s) --> results

Every wait of the driver, and of a learner for the engines it sends weights to, goes through this
module: nothing waits for ever, every failure names an actor and a phase, and a request to stop is
heard. What goes on in the background, such as generation while learners train, is served in every
wait: one thread, no locks.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import ray
from ray._private import worker
from ray.exceptions import (
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from coop_rl.errors import ActorLostError, RayLostError, ResultLostError, RunError, first_line
from coop_rl.observability.losses import TO_GO_ON

SECONDARY_GRACE_S = 5.0
"""After one call failed, how long to look for a dead actor that may have caused it: Ray needs
about 2 s to report a killed actor, gloo 0.3 s to report a closed connection."""
POLL_S = 0.5
"""How often a wait looks whether it should be broken off. A signal handler cannot raise out of
`ray.wait`: Ray 2.60 waits on to its limit and then fails with SystemError."""
REFS_PER_RETURN, COLLECT_S = 16, 0.1
"""With more than `REFS_PER_RETURN` background calls under way, a wait takes in several results at
once, and waits for them up to `COLLECT_S`; engines have spare groups for longer than that."""

RAY_PROCESSES = ("raylet", "gcs_server")
"""Those of a local Ray that a run cannot go on without."""
MEMORY_ADVICE = (
    "Ray ended it because the node's memory was nearly used up (RAY_memory_usage_threshold); use "
    "smaller batches or fewer actors, or give the node more memory"
)

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Ref: TypeAlias = ray.ObjectRef[R]
"""What stands for a value that a call will return, or that `put` stored."""
AnyRef: TypeAlias = ray.ObjectRef[Any]
"""A reference to a value of whatever type; Ray's references are invariant in it."""

_checks: list[Callable[[], None]] = []


class Background(Protocol):
    """Calls under way that nobody waits for; whoever waits for something else takes them in."""

    def refs(self) -> Sequence[AnyRef]:
        """Return the references of the calls under way."""
        ...

    def take(self, ref: AnyRef) -> None:
        """Accept a call that is ready; may start others, must not wait, may raise."""
        ...


_background: list[Background] = []
_hung: dict[str, str] = {}
_waits: list[tuple[float, Callable[[], Iterable["Call[object]"]]]] = []


def lost_ray_process() -> str | None:
    """Return which process of a Ray that this one started has died; None where all live.

    Ray itself sees it after 15 to 60 seconds, and then ends the driver without a word. Of a cluster
    that was joined nothing is known here.
    """
    node: Any = worker._global_node
    dead = node.dead_processes() if node else []
    lost = (f"{name} (exit code {p.returncode})" for name, p in dead if name in RAY_PROCESSES)
    return next(lost, None)


def require_ray() -> None:
    """Refuse to ask anything of a Ray that has lost a process.

    Raises:
        RayLostError: Names the process.
    """
    if lost := lost_ray_process():
        raise RayLostError(
            f"Ray's own process {lost} died on this machine, and all actors with it; {TO_GO_ON}"
        )


@contextmanager
def breaking_off(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` in every wait inside; what it raises breaks off the wait."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


@contextmanager
def in_background(work: Background) -> Iterator[None]:
    """Serve `work` in every wait inside; may be nested."""
    if work in _background:
        yield
        return
    _background.append(work)
    try:
        yield
    finally:
        _background.remove(work)


@contextmanager
def _waiting_for(calls: Callable[[], Iterable["Call[object]"]]) -> Iterator[None]:
    """Note what the wait inside is for."""
    _waits.append((time.monotonic(), calls))
    try:
        yield
    finally:
        _waits.pop()


def under_way() -> tuple[float, list["Call[object]"]]:
    """Return how long this process has waited, and for which calls; innermost wait counts."""
    if not _waits:
        return 0.0, []
    since, calls = _waits[-1]
    return time.monotonic() - since, list(calls())


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """A remote call under way, and the type of its result."""

    actor: str
    """Name for people, such as `rollout-0`."""
    phase: str
    """What it does, for errors: the method's name in words, such as `receive w`."""
    ref: Ref[R_co]
    """Stands for the result; the first one where the call has several returns."""


def gather(calls: Sequence[Call[R]], timeout_s: float) -> list[R]:
    """Wait for all calls, and return their results in order; raises as `wait_for` does."""
    wait_for(calls, timeout_s)
    return [open_result(call, []) for call in calls]


def wait_for(calls: Sequence[Call[object]], timeout_s: float) -> None:
    """Wait until all calls have ended well, whatever their results' types.

    Args:
        calls: All under way.
        timeout_s: Longest wait for all of them.

    Raises:
        ActorLostError: An actor died, or did not answer within `timeout_s`.
        RunError: A call raised; an error of ours passes through unchanged.
        Exception: Whatever a check of `breaking_off` raises.
    """
    deadline = time.monotonic() + timeout_s
    pending = {call.ref: call for call in calls}
    with _waiting_for(pending.values):
        while pending:
            ready = wait_a_moment(list(pending), deadline - time.monotonic())
            if not ready and time.monotonic() < deadline:
                continue
            if not ready:
                raise _overdue(timeout_s, pending.values())
            for ref in ready:
                call = pending.pop(ref)
                open_result(call, list(pending.values()))


def gather_all(
    calls: Sequence[Call[R]], timeout_s: float, grace_s: float | None = None
) -> list[R | RunError]:
    """Wait for all calls and return what became of each, in order.

    Args:
        calls: All under way.
        timeout_s: Longest wait for all of them.
        grace_s: How long the others are waited for once one has failed; None: to `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    pending, outcomes = {call.ref: call for call in calls}, dict[AnyRef, R | RunError]()
    while pending and (left_s := deadline - time.monotonic()) > 0:
        for ref in wait_a_moment(list(pending), left_s):
            call = pending.pop(ref)
            try:
                outcomes[ref] = open_result(call, [])
            except RunError as error:
                outcomes[ref] = error
                if grace_s is not None:
                    deadline = min(deadline, time.monotonic() + grace_s)
    for ref, call in pending.items():
        outcomes[ref] = _overdue(timeout_s, [call])
    return [outcomes[call.ref] for call in calls]


def wait_until(
    is_done: Callable[[], bool],
    timeout_s: float,
    calls: Callable[[], Iterable[Call[object]]],
    progress: Callable[[], int],
) -> None:
    """Serve the background until `is_done`.

    Args:
        is_done: Asked after every result that the background took in.
        timeout_s: Longest wait for `progress` to change.
        calls: Returns the background's calls, which the error names.
        progress: Returns a count of results, by which a slow background is told from a stuck one.

    Raises:
        ActorLostError: Nothing happened within `timeout_s`.
        Exception: Whatever the background or a check of `breaking_off` raises.
    """
    deadline, seen = time.monotonic() + timeout_s, progress()
    with _waiting_for(calls):
        while not is_done():
            wait_a_moment([], deadline - time.monotonic())
            if progress() != seen:
                deadline, seen = time.monotonic() + timeout_s, progress()
            elif time.monotonic() >= deadline:
                raise _overdue(timeout_s, calls())


def open_result(call: Call[R], others: Sequence[Call[object]]) -> R:
    """Return the result of a call that is ready.

    Raises:
        ActorLostError: Its actor, or one of the `others` that caused the failure, died.
        ResultLostError: It was returned, and is lost with the node that held it.
        RunError: It raised; an error of ours passes through unchanged.
    """
    try:
        return ray.get(call.ref)
    except RayError as error:
        require_ray()
        raise _explain(call, error, others) from None


def wait_a_moment(refs: Sequence[AnyRef], left_s: float) -> list[AnyRef]:
    """Wait for at most `POLL_S`, serve the background, and return those of `refs` that are ready.

    Every longer wait is a loop around this one, so that checks are made and groups go on.
    """
    require_ray()
    behind = {ref: work for work in _background for ref in work.refs()}
    everything = [*refs, *behind]
    limit_s = max(0.0, min(POLL_S, left_s))
    # Ray looks at every ref in every wait, so where there are many, several are taken in at once.
    num_returns = 1 + len(behind) // REFS_PER_RETURN
    if everything:
        patience_s = limit_s if num_returns == 1 else min(limit_s, COLLECT_S)
        ready, _ = ray.wait(everything, num_returns=num_returns, timeout=patience_s)
    else:
        time.sleep(limit_s)
        ready = []
    require_ray()
    for check in _checks:
        check()
    for ref in ready:
        if ref in behind:
            behind[ref].take(ref)
    return [ref for ref in ready if ref not in behind]


def _overdue(timeout_s: float, calls: Iterable[Call[object]]) -> ActorLostError:
    late = list(calls)
    waiting = ", ".join(sorted({f"{call.actor} ({call.phase})" for call in late}))
    text = f"no answer within {timeout_s:g} s from {waiting or 'anyone'}"
    return ActorLostError(text, sorted({call.actor for call in late}), "hung")


def _explain(call: Call[object], error: RayError, others: Sequence[Call[object]]) -> RunError:
    """Return the error to raise, preferring a dead actor to its peers' complaints."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RayActorError | OutOfMemoryError):
        return _lost(call, cause)
    if isinstance(cause, ObjectLostError):
        text = f"{call.actor} ended {call.phase}, and the result is lost with its node"
        return ResultLostError(f"{text}: {first_line(cause)}")
    deadline = time.monotonic() + SECONDARY_GRACE_S
    pending = {other.ref: other for other in others}
    while pending and time.monotonic() < deadline:
        ready, _ = ray.wait(
            list(pending), num_returns=1, timeout=max(0.0, deadline - time.monotonic())
        )
        for ref in ready:
            other = pending.pop(ref)
            try:
                ray.get(ref)
            except (RayActorError, OutOfMemoryError) as death:
                return _lost(other, death)
            except RayError:
                continue
    if isinstance(cause, RunError):
        return type(cause)(f"{call.actor}, {call.phase}: {cause}")
    is_task = isinstance(error, RayTaskError)  # whose traceback says what it is in its last line
    what = str(error).strip().splitlines()[-1] if is_task else first_line(error)
    return RunError(f"{call.actor} failed in {call.phase}: {what}; see logs/{call.actor}.log")


def note_hung(actor: str, text: str | None) -> None:
    """Let the death of an actor be told as a hang, by `text`; None: no longer, another is there."""
    if text is None:
        _hung.pop(actor, None)
    else:
        _hung[actor] = text


def _lost(call: Call[object], error: RayError) -> ActorLostError:
    if call.actor in _hung:
        return ActorLostError(_hung[call.actor], [call.actor], "hung")
    is_memory = isinstance(error, OutOfMemoryError) or "RAY_memory_usage_threshold" in str(error)
    # Memory is named before the colon, since a restart is told by what stands there.
    died, reason = (
        ("ran out of memory", MEMORY_ADVICE) if is_memory else ("died", first_line(error))
    )
    text = f"{call.actor} {died} in {call.phase}: {reason}; see logs/{call.actor}.log"
    return ActorLostError(text, [call.actor])
