"""Which prompts are sampled ahead and which groups make a step's batch: the window of lag L.

    order of prompts --begin--> waiting --started(v)--> running --finished--> batch of step k
                                   ^--------returned-------+   |
                                               says nothing: a refill in its place

With P prompts a step, at most (L + 1) P groups are under way or wait to be trained. A group whose
oldest token may be of version v must be trained at step v + L or before. So step k needs, of the
groups with v <= k - L + j, all but j P, for j = 0 .. L - 1 (earliest deadline first); what is then
missing from the P is whatever finished first. No prompt is lost, none repeated, none starves.

At L = 0 the batch is the step's own P prompts, whatever the order in which they finish: with
dynamic sampling every group that says nothing is replaced by the next prompt of the refills' order,
so how many are drawn is a fixed point. Called by `driver.rollouts`. Plain Python: no Ray, no clock,
no random numbers.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One position in the order of the prompts; sorting puts a batch into prompt order."""

    step: int
    """The step whose part of the order the slot belongs to; it gives the sampling seed."""
    is_refill: bool
    """Whether the slot belongs to the refills' order instead of the prompts'."""
    position: int
    """Index in that order, from 0."""


RowOf = Callable[[Slot], int]
"""Tells which row of the data a slot stands for."""


class Window:
    """Slots under way and finished; all versions are theta's counts, all calls O(L) or amortised.

    P = `per_step`, L = `max_lag` of the constructor.
    """

    def __init__(
        self, per_step: int, max_lag: int, max_refills: int, num_steps: int, row_of: RowOf
    ) -> None:
        """Start empty.

        Args:
            per_step: P, groups of a batch.
            max_lag: L, most versions a trained group may be old.
            max_refills: Batches of the refills' order a step may use up; 0: no dynamic sampling.
            num_steps: Nothing is sampled for later steps.
            row_of: Tells which prompt a slot is; refills skip prompts that are in the window.
        """
        self._per_step, self._max_lag, self._num_steps = per_step, max_lag, num_steps
        self._refills_per_step = max_refills * per_step
        self._row_of = row_of
        self._next, self._refill = 0, 0
        self._waiting: set[Slot] = set()
        self._running: dict[Slot, int] = {}
        self._num_running: Counter[int] = Counter()
        self._finished: dict[int, deque[tuple[int, Slot]]] = {}
        self._num_finished, self._num_ends = 0, 0
        self._dull: list[Slot] = []
        """Slots that ended since the last batch was taken with a group that says nothing."""
        self._num_unreplaced = 0
        """How many dull slots found no refill to replace them; so many may fill the batch."""
        self._rows: Counter[int] = Counter()
        """How often each row of the data is in the window."""
        self._refill_end = self._refills_per_step

    @property
    def size(self) -> int:
        """Groups under way or finished, without those that say nothing."""
        return len(self._waiting) + len(self._running) + self._num_finished

    def begin(self, step: int) -> list[Slot]:
        """Return the slots to sample from now on, so that the window is full for `step`."""
        self._aim(step)
        if self._max_lag == 0:
            self._next = step * self._per_step
        ahead = min(self._max_lag + 1, self._num_steps - step)
        new = []
        for _ in range(ahead * self._per_step - self.size - self._num_unreplaced):
            new.append(Slot(self._next // self._per_step, False, self._next))
            self._next += 1
        for slot in new:
            self._enter(slot)
        return new

    def started(self, slot: Slot, version: int) -> None:
        """Note that an engine has a slot, with weights of `version` or later."""
        self._waiting.remove(slot)
        self._running[slot] = version
        self._num_running[version] += 1

    def returned(self, slot: Slot) -> None:
        """Note that what had a slot is lost; it waits to be started once more."""
        self._num_running[self._running.pop(slot)] -= 1
        self._waiting.add(slot)

    def finished(self, slot: Slot, *, is_informative: bool) -> Slot | None:
        """Note that a slot is scored; return the slot to sample in its place, if any."""
        version = self._running.pop(slot)
        self._num_running[version] -= 1
        if is_informative or self._refills_per_step == 0:
            self._num_ends += 1
            self._num_finished += 1
            self._finished.setdefault(version, deque()).append((self._num_ends, slot))
            return None
        self._dull.append(slot)
        refill = self._next_refill()
        self._num_unreplaced += refill is None
        return refill

    def is_ready(self, step: int) -> bool:
        """Whether the batch of `step` can be taken."""
        for limit, needed in self._needs(step):
            if self._count_finished(limit) < needed:
                return False
        return self._num_finished + self._num_unreplaced >= self._per_step

    def take(self, step: int) -> tuple[list[Slot], list[Slot]]:
        """Return the batch of `step` and the slots sampled in vain, both in prompt order."""
        batch: list[Slot] = []
        taken: Counter[int] = Counter()
        for limit, needed in [*self._needs(step), (step, self._per_step)]:
            missing = needed - sum(n for version, n in taken.items() if version <= limit)
            for _ in range(min(missing, self._count_finished(limit))):
                version, slot = self._pop_earliest(limit)
                taken[version] += 1
                batch.append(slot)
        self._dull.sort()
        num_fillers = self._per_step - len(batch)
        batch += self._dull[:num_fillers]
        dropped, self._dull, self._num_unreplaced = self._dull[num_fillers:], [], 0
        for slot in (*batch, *dropped):
            self._rows.subtract([self._row_of(slot)])
        self._rows = +self._rows
        self._aim(step + 1)
        return sorted(batch), dropped

    def state(self) -> dict[str, Any]:
        """Return, as JSON, where the orders stand and what was begun and not trained.

        `slots` are under way; `finished` are those with a group, in the order of their ends and
        with the version each was sampled at, `dull` those whose group says nothing.
        """
        ends = sorted(
            (end, version, slot) for version, ends in self._finished.items() for end, slot in ends
        )
        return {
            "next": self._next,
            "refill": self._refill,
            "slots": [astuple(slot) for slot in sorted([*self._waiting, *self._running])],
            "finished": [[version, astuple(slot)] for _, version, slot in ends],
            "dull": [astuple(slot) for slot in self._dull],
            "unreplaced": self._num_unreplaced,
        }

    def restore(self, state: Mapping[str, Any], *, has_groups: bool) -> list[Slot]:
        """Go on from `state`; returns the slots to sample anew.

        Args:
            state: What `state` returned.
            has_groups: Whether the groups of what had ended are there; else it is sampled anew.
        """
        self._next, self._refill = state["next"], state["refill"]
        slots = [Slot(*values) for values in state["slots"]]
        # A state of before groups were kept has neither.
        finished = [(version, Slot(*slot)) for version, slot in state.get("finished", [])]
        dull = [Slot(*values) for values in state.get("dull", [])]
        ended = [*(slot for _, slot in finished), *dull]
        if has_groups:
            self._dull, self._num_unreplaced = dull, state.get("unreplaced", 0)
            for self._num_finished, (version, slot) in enumerate(finished, 1):
                self._finished.setdefault(version, deque()).append((self._num_finished, slot))
            self._num_ends = self._num_finished
            self._rows.update(self._row_of(slot) for slot in ended)
        else:
            slots = sorted([*slots, *ended])
        for slot in slots:
            self._enter(slot)
        return slots

    def _aim(self, step: int) -> None:
        """Let refills come from the part of their order that belongs to `step`."""
        self._num_running = +self._num_running
        self._finished = {version: ends for version, ends in self._finished.items() if ends}
        start = step * self._refills_per_step
        self._refill_end = start + self._refills_per_step
        if not start <= self._refill <= self._refill_end:
            self._refill = start

    def _enter(self, slot: Slot) -> None:
        self._waiting.add(slot)
        self._rows[self._row_of(slot)] += 1

    def _next_refill(self) -> Slot | None:
        while self._refill < self._refill_end:
            slot = Slot(self._refill // self._refills_per_step, True, self._refill)
            self._refill += 1
            if self._row_of(slot) not in self._rows:
                self._enter(slot)
                return slot
        return None

    def _needs(self, step: int) -> list[tuple[int, int]]:
        """Return (v, n): of the groups of version v or older at least n must be in this batch."""
        needs = []
        for ahead in range(self._max_lag):
            limit = step - self._max_lag + ahead
            running = sum(n for version, n in self._num_running.items() if version <= limit)
            total = running + self._count_finished(limit)
            needs.append((limit, max(0, total - ahead * self._per_step)))
        return needs

    def _count_finished(self, limit: int) -> int:
        return sum(len(ends) for version, ends in self._finished.items() if version <= limit)

    def _pop_earliest(self, limit: int) -> tuple[int, Slot]:
        version = min(
            (version for version, ends in self._finished.items() if ends and version <= limit),
            key=lambda version: self._finished[version][0],
        )
        self._num_finished -= 1
        return version, self._finished[version].popleft()[1]
