"""Waiting for remote calls with a limit, naming whoever is lost.

Every wait of the controller goes through `gather`, so nothing waits for ever, every failure names
an actor and a phase, and a request to stop is heard.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from coop_rl.errors import ActorLostError, RunError

SECONDARY_GRACE_S = 5.0
"""After one call failed, how long to look for a dead actor that may have caused it: Ray needs
about 2 s to report a killed actor, gloo 0.3 s to report a closed connection."""
POLL_S = 0.5
"""How often a wait looks whether it should be broken off. A signal handler cannot raise out of
`ray.wait`: Ray 2.60 waits on to its limit and then fails with SystemError."""
_checks: list[Callable[[], None]] = []


@contextmanager
def breaking_off(check: Callable[[], None]) -> Iterator[None]:
    """Let `check`, which may raise, break off every `gather` meanwhile."""
    _checks.append(check)
    try:
        yield
    finally:
        _checks.remove(check)


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
        left_s = deadline - time.monotonic()
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, min(POLL_S, left_s)))
        break_off()
        if not ready and left_s > POLL_S:
            continue
        if not ready:
            waiting = ", ".join(sorted({f"{c.actor} ({c.phase})" for c in pending.values()}))
            raise ActorLostError(f"no answer within {timeout_s:g} s from {waiting}")
        call = pending.pop(ready[0])
        result_of(call, list(pending.values()))
        if on_result:
            on_result()
            deadline = time.monotonic() + timeout_s
    return [ray.get(call.ref) for call in calls]


def break_off() -> None:
    """Break off here if a check says so; waits that do not go through `gather` call it."""
    for check in _checks:
        check()


def result_of(call: Call, others: Sequence[Call]) -> Any:
    """Return the result of a call that has ended.

    Raises:
        ActorLostError: Its actor died, or one of `others` did, which it needed.
        RunError: The call raised; an error of ours passes through unchanged.
    """
    try:
        return ray.get(call.ref)
    except (RayActorError, RayTaskError) as error:
        raise _explain(call, error, others) from None


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
