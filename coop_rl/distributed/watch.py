"""Asks every actor for a beat while the driver waits, and ends those that hang.

    every wait (`calls`) --refs--> beats under way --take--> Vigil --check--> a line, stacks, a kill
                                                        |--> waiting.json, for `doctor --run`

A hang ends as `ActorLostError` with cause `hung`, as a death does with `died`: of an actor that can
be replaced alone it comes from the next of its calls that is waited for, of any other at once.
There is no thread: while the driver itself computes nobody is asked and nobody judged.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from coop_rl.config.recovery import RecoverySection
from coop_rl.distributed import processes
from coop_rl.distributed.actors import Shell
from coop_rl.distributed.calls import AnyRef, breaking_off, in_background, note_hung, under_way
from coop_rl.distributed.heartbeat import BEAT_GROUP
from coop_rl.distributed.member import Member
from coop_rl.distributed.vigil import Look, Verdict, Vigil, is_busy
from coop_rl.errors import ActorLostError

ASK_EVERY_S = 5.0
MOST_COUNTED_S = 5.0
"""Time between two looks beyond this does not count: the driver computed, or was stopped itself,
with all its processes perhaps, and those deserve the time to answer first."""


class Watched(Protocol):
    """A team, as far as it is watched; asked anew every time, since members may change."""

    @property
    def all(self) -> Sequence[Member[Shell]]:
        """Every actor."""
        ...

    @property
    def expendable(self) -> Sequence[Member[Shell]]:
        """Those that can be replaced alone."""
        ...


class Watch:
    """The beats of all actors; a `calls.Background` that also checks in every wait."""

    def __init__(
        self,
        section: RecoverySection,
        team: Watched,
        say: Callable[[str], None],
        logs: Path | None = None,
        note: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Watch whoever is in the team at the time.

        Args:
            section: The limits.
            team: The present actors.
            say: Gets a line for people.
            logs: Folder of the actors' logs, which stacks go to.
            note: Gets who waits for whom, every few seconds.
        """
        self._team, self._say, self._logs, self._note = team, say, logs, note
        self._vigil = Vigil(section.silent_after_s, section.hung_after_s)
        self._known: dict[str, Member[Shell]] = {}
        self._gone: set[str] = set()
        self._pending: dict[AnyRef, str] = {}
        self._first_looks: dict[str, Look] = {}
        self._now, self._looked_at, self._ask_at = 0.0, time.monotonic(), 0.0

    def refs(self) -> Sequence[AnyRef]:
        """Ask whoever is due; return the questions under way, for `calls`."""
        now = time.monotonic()
        self._now += min(now - self._looked_at, MOST_COUNTED_S)
        self._looked_at = now
        if self._now >= self._ask_at:
            self._ask_at = self._now + ASK_EVERY_S
            self._ask()
            if self._note:
                self._note(self._status())
        return list(self._pending)

    def take(self, ref: AnyRef) -> None:
        """Take in an answer; an actor that died is told of by whoever waits for its call."""
        if (actor := self._pending.pop(ref, None)) is None:
            return  # of one that was killed or replaced meanwhile
        try:
            self._vigil.answered(actor, ray.get(ref), self._now)
        except RayError:
            self._vigil.forget(actor)
            self._gone.add(actor)

    def check(self) -> None:
        """Tell of who is late, and kill who hangs.

        Raises:
            ActorLostError: One that cannot be replaced alone was killed; names all that were.
        """
        verdicts = list(self._vigil.judge(self._now))
        if late := [verdict for verdict in verdicts if verdict.kind == "late"]:
            self._tell(late)
        suspects = [verdict for verdict in verdicts if verdict.kind == "hung"]
        hung = [v for v in suspects if v.is_certain or not self._is_busy(v.actor)]
        if not hung:
            return
        told = {v.actor: f"{v.text}; killed; all stacks are in logs/*.log" for v in hung}
        self._kill(list(told))
        for actor, text in told.items():
            self._say(text)
            note_hung(actor, text)
        if not {member.name for member in self._team.expendable}.issuperset(told):
            raise ActorLostError("; ".join(told.values()), list(told), "hung")

    def end(self) -> None:
        """Forget all actors."""
        for actor in self._known:
            self._forget(actor)

    def _ask(self) -> None:
        present = {member.name: member for member in self._team.all}
        for actor in [name for name, old in self._known.items() if present.get(name) is not old]:
            self._forget(actor)  # gone, or replaced
        self._known = present
        busy = {*self._pending.values(), *self._gone}
        for actor, member in present.items():
            if actor not in busy:
                ask: Any = member.handle.beat.options(concurrency_group=BEAT_GROUP)
                self._pending[ask.remote()] = actor
                self._vigil.asked(actor, self._now)

    def _forget(self, actor: str) -> None:
        self._vigil.forget(actor)
        self._gone.discard(actor)
        note_hung(actor, None)
        self._pending = {ref: name for ref, name in self._pending.items() if name != actor}

    def _tell(self, late: Sequence[Verdict]) -> None:
        """Say it, and show all stacks: who waits in a collective shows what it waits for."""
        for verdict in late:
            self._say(verdict.text)
        everybody = self._by_node(self._vigil.beats())
        looks = processes.on_nodes(processes.show_stacks, everybody, self._logs)
        for actor in looks.keys() & {verdict.actor for verdict in late}:
            self._first_looks[actor] = Look(*looks[actor], at=self._now)

    def _is_busy(self, actor: str) -> bool:
        """Look again at a silent actor; one that computes gets as much time once more."""
        found = processes.on_nodes(processes.look, self._by_node([actor])).get(actor)
        second = Look(*found, at=self._now) if found else None
        if second is None or not is_busy(self._first_looks.get(actor), second):
            return False
        self._first_looks[actor] = second
        self._say(f"{actor} does not answer but computes, or waits for a disk: left alone")
        self._vigil.spare(actor, self._now)
        return True

    def _kill(self, actors: Sequence[str]) -> None:
        processes.on_nodes(processes.kill_trees, self._by_node(actors))
        for actor in actors:
            ray.kill(self._known[actor].handle, no_restart=True)
            self._forget(actor)
            self._gone.add(actor)

    def _by_node(self, actors: Iterable[str]) -> dict[str, dict[str, int]]:
        """Return the process ids of some actors by their node."""
        found: dict[str, dict[str, int]] = {}
        for actor in actors:
            beat, _ = self._vigil.beats()[actor]
            found.setdefault(beat.node_id, {})[actor] = beat.pid
        return found

    def _status(self) -> dict[str, Any]:
        """Return who waits for whom, as JSON."""
        since, calls = under_way()
        waits = Counter((call.actor, call.phase) for call in calls)
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "driver_waits_s": round(since, 1),
            "driver_waits_for": [
                {"actor": actor, "phase": phase, "calls": n} for (actor, phase), n in waits.items()
            ],
            "actors": {
                actor: asdict(beat)
                | {
                    "seconds": round(beat.seconds + self._now - heard_at, 1),
                    "silent_s": round(self._vigil.silence_s(actor, self._now), 1),
                }
                for actor, (beat, heard_at) in self._vigil.beats().items()
            },
        }


@contextmanager
def watching(
    section: RecoverySection,
    team: Watched,
    say: Callable[[str], None],
    logs: Path | None = None,
    note: Callable[[Mapping[str, Any]], None] | None = None,
) -> Iterator[None]:
    """Ask and judge in every wait inside, unless that is turned off; arguments as for `Watch`."""
    if not section.hung_after_s:
        yield
        return
    watch = Watch(section, team, say, logs, note)
    try:
        with in_background(watch), breaking_off(watch.check):
            yield
    finally:
        watch.end()
