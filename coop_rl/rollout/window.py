"""Which prompts are on their way, and which finished groups make a step's batch.

With lag L a group may be trained on up to L versions after the one it was started with. So prompts
of later steps are started while the learners train:

    begin(k)     start prompts until P for step k and `ahead` more are on their way or done
    finish       a group came in; one that teaches nothing is replaced at once (dynamic sampling)
    choose(k)    P finished groups, in the prompts' order; None: wait for more

Groups are taken as they finish, but none may become too old: every place has a step by which it is
due, and a choice stands only if all that are left can still be trained in time. With L = 0 the
batch is that of the step's own prompts, whatever finishes first. Pure bookkeeping of places;
`distributed.rollouts` holds the groups.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A prompt's place in the run's order."""

    batch: int
    """The step in whose order it stands; decides the sampling seed."""
    index: int
    """Below P: in the seeded order; from P on: put in by dynamic sampling."""
    row: int
    """Of the prompts."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A step's batch."""

    places: Sequence[Place]
    dropped: Sequence[Place]
    """Sampled in vain since the last choice."""


class Window:
    """Places on their way or finished, until they are trained on."""

    def __init__(
        self,
        per_step: int,
        max_lag: int,
        rows_of: Callable[[int], Sequence[int]],
        refills_of: Callable[[int], Iterator[int]] = lambda _: iter(()),
    ) -> None:
        """Start with nothing on its way.

        Args:
            per_step: P.
            max_lag: L.
            rows_of: A step's prompts, P rows, in order.
            refills_of: Rows that a step may put in for groups that teach nothing.
        """
        self._per_step = per_step
        self._max_lag = max_lag
        self._rows_of = rows_of
        self._refills_of = refills_of
        self._step = 0
        self._next = 0
        self._owed: deque[Place] = deque()
        self._due: dict[Place, int] = {}
        self._kept: set[Place] = set()
        self._dropped: list[Place] = []
        self._used: set[int] = set()
        self._refills: Iterator[int] = iter(())
        self._num_refills = 0

    @property
    def num_ahead(self) -> int:
        """Groups beyond a step's own that may be on their way.

        Less than the L P that would just not be too old: the difference is what lets short
        responses overtake long ones.
        """
        return self._per_step * (self._max_lag + 1) // 2 if self._max_lag else 0

    def begin(self, step: int) -> list[Place]:
        """Return the places to start at the beginning of a step."""
        self._step = step
        # Steps without rollouts leave their prompts out, as if each step had its own.
        self._next = max(self._next, step * self._per_step)
        self._refills, self._num_refills = self._refills_of(step), 0
        self._used = {place.row for place in self._due}
        started = []
        while len(self._due) < self._per_step + self.num_ahead:
            place = self._owed.popleft() if self._owed else self._next_place()
            # A lag of 1 leaves no choice, so that its runs can be repeated; one of 2 leaves a step.
            turn = place.batch + max(self._max_lag - 1, 0)
            self._start(place, max(step, min(step + self._max_lag, turn)))
            started.append(place)
        return started

    def _next_place(self) -> Place:
        batch, index = divmod(self._next, self._per_step)
        self._next += 1
        return Place(batch, index, self._rows_of(batch)[index])

    def _start(self, place: Place, due: int) -> None:
        self._due[place] = due
        self._used.add(place.row)

    def finish(self, place: Place, *, is_informative: bool) -> Place | None:
        """Note that a group came in; return the place to start in its stead, if any."""
        if is_informative:
            self._kept.add(place)
            return None
        del self._due[place]
        self._dropped.append(place)
        # Prompts the step has not had; which ones does not depend on what came in first.
        for row in self._refills:
            if row not in self._used:
                refill = Place(self._step, self._per_step + self._num_refills, row)
                self._num_refills += 1
                self._start(refill, self._step + self._max_lag)
                return refill
        return None

    def choose(self) -> Chosen | None:
        """Return the batch of the step that was begun last, and forget it; None: not enough yet."""
        # Those that are due first, so that the others have as much time as possible.
        kept = sorted(self._kept, key=lambda place: (self._due[place], place))
        num_missing = self._per_step - len(kept)
        is_all_in = len(kept) == len(self._due)
        if num_missing > 0 and not is_all_in:
            return None
        # Too few: the groups that say nothing fill up, so that a step always has its size.
        filling = sorted(self._dropped)[: max(num_missing, 0)]
        chosen = kept[: self._per_step]
        if not is_all_in and not self._leaves_time(set(chosen)):
            return None
        for place in chosen:
            del self._due[place]
            self._kept.remove(place)
        dropped = sorted(set(self._dropped).difference(filling))
        self._dropped = []
        return Chosen(sorted([*chosen, *filling]), dropped)

    def _leaves_time(self, chosen: set[Place]) -> bool:
        """Return whether all places but the chosen ones can still be trained when they are due."""
        dues = sorted(due for place, due in self._due.items() if place not in chosen)
        return all(
            number <= (due - self._step) * self._per_step
            for number, due in enumerate(dues, start=1)
        )

    def state(self) -> Mapping[str, Any]:
        """Return what a resumed run has to start first; empty where that follows from the step."""
        if self._max_lag == 0:
            return {}
        waiting = sorted([*self._due, *self._owed])
        return {"next": self._next, "waiting": [[p.batch, p.index, p.row] for p in waiting]}

    def restore(self, next_step: int, state: Mapping[str, Any]) -> Self:
        """Go on at a step with what `state` returned; what was on its way is started again."""
        self._next = state.get("next", next_step * self._per_step)
        self._owed = deque(Place(*parts) for parts in state.get("waiting", ()))
        return self
