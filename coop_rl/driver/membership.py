"""Who of a fleet of rollout actors is where on its way to traffic, and how many losses are borne.

    STARTING --up--> STALE --joined--> JOINED --published, checked--> ADMITTED
        ^              |                  |                               |
        +----- LOST <--+------------------+-------------------------------+     (or RETIRED)

Whoever leaves with its node is ABSENT again, from wherever it was, and may come back.

STALE has weights of a version that is gone; JOINED is in the group of the next publish. Nobody gets
from LOST to ADMITTED but through a publish that landed and the canary. Called by `driver.fleet`.
Plain Python: no Ray, no clock.
"""

from collections.abc import Iterable
from enum import Enum, auto

from coop_rl.errors import BudgetSpentError


class State(Enum):
    """Where a member is."""

    ABSENT = auto()
    """Not there: before it first starts, and after it has left."""
    STARTING = auto()
    STALE = auto()
    JOINED = auto()
    ADMITTED = auto()
    LOST = auto()
    RETIRED = auto()
    """Lost, and not replaced any more."""


class Membership:
    """The state of every member by name; any other step than those drawn above is refused."""

    def __init__(self, founders: Iterable[str]) -> None:
        """Begin with members that serve what they loaded when all of the run was started."""
        self._states = dict.fromkeys(founders, State.ADMITTED)
        self._published: set[str] = set()

    def __getitem__(self, name: str) -> State:
        """Return the state of a member."""
        return self._states.get(name, State.ABSENT)

    def among(self, *states: State) -> list[str]:
        """Return who is in one of `states`, in the order of the first appearance."""
        return [name for name, state in self._states.items() if state in states]

    def lost(self, name: str) -> None:
        """Note that a member died or hangs."""
        present = (State.STARTING, State.STALE, State.JOINED, State.ADMITTED)
        self._move(name, State.LOST, *present)

    def left(self, name: str) -> None:
        """Note that a member is let go, and forget it."""
        present = (State.STARTING, State.STALE, State.JOINED, State.ADMITTED, State.LOST)
        self._move(name, State.ABSENT, *present)
        del self._states[name]

    def retired(self, name: str) -> None:
        """Note that a lost member is not replaced."""
        self._move(name, State.RETIRED, State.LOST)

    def starting(self, name: str) -> None:
        """Note that a new actor starts in a place that is free."""
        self._move(name, State.STARTING, State.LOST, State.ABSENT)

    def up(self, name: str) -> None:
        """Note that it has loaded what lies on disk."""
        self._move(name, State.STALE, State.STARTING)

    def joined(self) -> list[str]:
        """Let all that are up join the next publish; return who gets it, admitted ones included."""
        for name in self.among(State.STALE):
            self._move(name, State.JOINED, State.STALE)
        return self.among(State.JOINED, State.ADMITTED)

    def published(self, receivers: Iterable[str]) -> None:
        """Note whom a publish reached."""
        self._published = {name for name in receivers if self[name] is State.JOINED}

    def checked(self) -> list[str]:
        """Admit whom the publish reached, now that the canary has passed; return their names."""
        admitted = [name for name in self.among(State.JOINED) if name in self._published]
        for name in admitted:
            self._move(name, State.ADMITTED, State.JOINED)
        self._published = set()
        return admitted

    def _move(self, name: str, to: State, *since: State) -> None:
        if self[name] not in since:
            raise ValueError(f"{name} cannot become {to.name}: it is {self[name].name}")
        self._states[name] = to
        self._published.discard(name)


class Budget:
    """How many losses of a role a run replaces within a window of steps."""

    def __init__(self, field: str, limit: int, window: int) -> None:
        """Bear `limit` losses in any `window` steps, as the config's `field` says."""
        self._field, self._window = field, window
        self.limit = limit
        self._losses: list[tuple[int, str]] = []

    def spend(self, step: int, loss: str) -> int:
        """Note a loss at `step`; returns how many there are in the window.

        Raises:
            BudgetSpentError: It is one too many; the text tells all of the window.
        """
        self._losses = [(at, text) for at, text in self._losses if at > step - self._window]
        self._losses.append((step, loss))
        if len(self._losses) > self.limit:
            told = "; ".join(f"step {at}: {text}" for at, text in self._losses)
            raise BudgetSpentError(
                f"{len(self._losses)} losses within {self._window} steps, and {self._field} lets "
                f"{self.limit} be replaced: {told}"
            )
        return len(self._losses)
