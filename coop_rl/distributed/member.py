"""One actor as the driver and the learners see it: a name, and typed calls.

    member: Member[LearnerActor]
    call = member.call(LearnerActor.publish, version)      Call[SyncReport], under way
    (report,) = gather([call], limit_s)                    SyncReport

A method is named by the actor class's own function, so that mypy checks the method's name, its
arguments, its result and whether the actor has it at all; `tests/distributed/typed_calls.py` shows
what is refused. The name is also the phase that errors tell: `connect_rollouts` is called "connect
rollouts".
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import ray
from ray.actor import ActorHandle

from coop_rl.distributed.calls import Call, Ref

A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Member(Generic[A_co]):
    """An actor of class `A_co` and the name it has in errors, logs and `ray list actors`."""

    name: str
    handle: ActorHandle[Any]

    @overload
    def call(
        self,
        method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, R]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Call[R]: ...

    @overload
    def call(
        self, method: Callable[Concatenate[A_co, P], R], *arguments: P.args, **named: P.kwargs
    ) -> Call[R]: ...

    def call(
        self, method: Callable[Concatenate[A_co, P], Any], *arguments: P.args, **named: P.kwargs
    ) -> Call[Any]:
        """Start `method` on the actor, which takes its calls in the order they were started."""
        return Call(self.name, _phase(method), self._remote(method).remote(*arguments, **named))

    def call_pair(
        self,
        method: Callable[Concatenate[A_co, P], tuple[R, S]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> tuple[Call[R], Ref[S]]:
        """Start a method that returns two values; the second stays with the actor.

        It travels when another call that is given its reference (`argument`) opens it.
        """
        remote = self._remote(method).options(num_returns=2)
        first, second = remote.remote(*arguments, **named)
        return Call(self.name, _phase(method), first), second

    def _remote(self, method: Callable[..., Any]) -> Any:
        """Return Ray's counterpart of a method, which has no static type."""
        return getattr(self.handle, method.__name__)


def put(value: R) -> Ref[R]:
    """Return a reference that several calls may be given; what it stands for travels once."""
    return ray.put(value)


def argument(ref: Ref[R]) -> R:
    """Give a reference the type of what it stands for, to be an argument of a call.

    Ray replaces every argument that is a reference by its value before the method sees it. Here,
    before the call, it still is the reference, and of no other use.
    """
    return cast("R", ref)


def _phase(method: Callable[..., Any]) -> str:
    return method.__name__.replace("_", " ")
