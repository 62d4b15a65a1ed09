"""Waiting for remote calls with a limit, naming whoever is lost.

Every wait of the controller goes through `gather`, so nothing waits for ever, every failure names
an actor and a phase, and a request to stop is heard. What goes on in the background, such as
generation while learners train, is served in every wait: one thread, no locks.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from coop_rl.errors import ActorLostError, RunError

SECONDARY_GRACE_S = 5.0
"""After one call failed, how long to look for a dead actor that may have caused it: Ray needs
about 2 s to report a killed actor, gloo 0.3 s to report a closed connection."""
POLL_S = 0.5
"""How often a wait looks whether it should be broken off. A signal handler cannot raise out of
`ray.wait`: Ray 2.60 waits on to its limit and then fails with SystemError."""
REFS_PER_RETURN, COLLECT_S = 16, 0.1
"""With more than so many background calls under way, a wait takes in several results, and waits
for them up to this long; engines have spare groups for longer."""
_checks: list[Callable[[], None]] = []


class Background(Protocol):
    """Calls under way that nobody waits for; whoever waits for something else takes them in."""

    def refs(self) -> Sequence[Any]:
        """Return the ObjectRefs under way."""
        ...

    def take(self, ref: Any) -> None:
        """Accept one that is ready; may start others, must not wait, may raise."""
        ...


_background: list[Background] = []


@contextmanager
def breaking_off(check: Callable[[], None]) -> Iterator[None]:
    """Let `check`, which may raise, break off every `gather` meanwhile."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


@contextmanager
def in_background(work: Background) -> Iterator[None]:
    """Serve `work` in every wait meanwhile; may be nested."""
    if work in _background:
        yield
        return
    _background.append(work)
    try:
        yield
    finally:
        _background.remove(work)


@dataclass(frozen=True, slots=True)
class Call:
    """A remote call under way."""

    actor: str
    """Name for people, such as `rollout-0`."""
    phase: str
    """The verb, such as `generate`."""
    ref: Any
    """Ray's ObjectRef; the first one where the call has several returns."""


def gather(
    calls: Sequence[Call], timeout_s: float, on_result: Callable[[], None] | None = None
) -> list[Any]:
    """Return the calls' results in order.

    Args:
        calls: All under way.
        timeout_s: Longest wait for all of them.
        on_result: Called after each; the limit then counts anew, for many calls of unknown length.

    Raises:
        ActorLostError: An actor died, or did not answer within `timeout_s`.
        RunError: A call raised; an error of ours passes through unchanged.
        Exception: Whatever a check of `breaking_off` raises.
    """
    deadline = time.monotonic() + timeout_s
    pending = {call.ref: call for call in calls}
    while pending:
        ready = wait_a_moment(list(pending), deadline - time.monotonic())
        if not ready and time.monotonic() < deadline:
            continue
        if not ready:
            raise _overdue(timeout_s, pending.values())
        for ref in ready:
            call = pending.pop(ref)
            open_result(call, list(pending.values()))
            if on_result:
                on_result()
                deadline = time.monotonic() + timeout_s
    return [ray.get(call.ref) for call in calls]


def wait_until(
    is_done: Callable[[], bool],
    timeout_s: float,
    under_way: Callable[[], Iterable[Call]],
    progress: Callable[[], int],
) -> None:
    """Serve the background until `is_done`.

    Args:
        is_done: Looked at after everything the background took in.
        timeout_s: Longest wait for `progress` to change.
        under_way: The background's calls, for the error.
        progress: Anything that counts.

    Raises:
        ActorLostError: Nothing happened within `timeout_s`.
        Exception: Whatever the background or a check of `breaking_off` raises.
    """
    deadline, seen = time.monotonic() + timeout_s, progress()
    while not is_done():
        wait_a_moment([], deadline - time.monotonic())
        if progress() != seen:
            deadline, seen = time.monotonic() + timeout_s, progress()
        elif time.monotonic() >= deadline:
            raise _overdue(timeout_s, under_way())


def put(value: object) -> Any:
    """Return a reference that several calls may be given; what it stands for travels once."""
    return ray.put(value)


def open_result(call: Call, others: Sequence[Call]) -> Any:
    """Return the result of a call that is ready.

    Raises:
        ActorLostError: Its actor, or one of the `others` that caused the failure, died.
        RunError: It raised; an error of ours passes through unchanged.
    """
    try:
        return ray.get(call.ref)
    except (RayActorError, RayTaskError) as error:
        raise _explain(call, error, others) from None


def wait_a_moment(refs: list[Any], left_s: float) -> list[Any]:
    """Wait a moment, serve the background, and return those of `refs` that are ready."""
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
    for check in _checks:
        check()
    for ref in ready:
        if ref in behind:
            behind[ref].take(ref)
    return [ref for ref in ready if ref not in behind]


def _overdue(timeout_s: float, calls: Iterable[Call]) -> ActorLostError:
    waiting = ", ".join(sorted({f"{call.actor} ({call.phase})" for call in calls}))
    return ActorLostError(f"no answer within {timeout_s:g} s from {waiting or 'anyone'}")


def _explain(call: Call, error: Exception, others: Sequence[Call]) -> RunError:
    """Return the error to raise, preferring a dead actor to its peers' complaints."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RayActorError):
        return _lost(call, cause)
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
            except RayActorError as death:
                return _lost(other, death)
            except (RayTaskError, GetTimeoutError):
                continue
    if isinstance(cause, RunError):
        return type(cause)(f"{call.actor}, {call.phase}: {cause}")
    last_line = str(error).strip().splitlines()[-1]
    return RunError(f"{call.actor} failed in {call.phase}: {last_line}; see logs/{call.actor}.log")


def _lost(call: Call, error: RayActorError) -> ActorLostError:
    reason = str(error).strip().splitlines()[0]
    return ActorLostError(f"{call.actor} died in {call.phase}: {reason}; see logs/{call.actor}.log")
