"""Who hangs, judged by beats alone; no Ray and no clock in here. Called by `distributed.watch`.

                        a line and stacks                       killed
    no answer           after `silent_after_s`                  after `hung_after_s`
    a stopped process   after `silent_after_s`                  then, at once
    a long phase        after ten times its median, or 60 s     never: peers wait in collectives too

Nobody is judged before its `start` is over, which has a limit of its own and imports what keeps
Python's lock for long. Where nobody answers at all, the machine is at fault, or the driver.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from coop_rl.distributed.heartbeat import Beat

STOPPED, ON_DISK = "stopped", "disk-sleep"
"""psutil's words for a process that a signal has stopped, and one that waits for a disk."""
TIMES_MEDIAN, LONG_S = 10.0, 60.0
"""A phase is long beyond so many medians of its own, and never sooner than `LONG_S`."""
BUSY_SHARE = 0.05
"""Share of one CPU by which a silent process is told from a stuck one; Ray's own threads in an idle
actor use 1 %."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a node says of a process."""

    state: str
    cpu_s: float
    """Seconds of CPU it has used."""
    at: float
    """When, on the clock of the watch."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about an actor."""

    actor: str
    kind: Literal["late", "hung"]
    """`late`: tell, and show stacks; `hung`: kill."""
    text: str
    is_certain: bool = False
    """Whether a process was seen stopped, so that another look could not change it."""


@dataclass(slots=True)
class _Known:
    """What was heard of one actor."""

    beat: Beat | None = None
    heard_at: float = 0.0
    asked_at: float | None = None
    """When the question was asked that has no answer yet."""
    answered_to: float = float("-inf")
    """When the newest question was asked that has one."""
    stopped_since: dict[int, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)


class Vigil:
    """All that is known of the actors, and what follows from it."""

    def __init__(self, silent_after_s: float, hung_after_s: float) -> None:
        self._silent_after_s, self._hung_after_s = silent_after_s, hung_after_s
        self._actors: dict[str, _Known] = {}

    def asked(self, actor: str, now: float) -> None:
        """An actor was asked for a beat; the one before was answered."""
        self._actors.setdefault(actor, _Known()).asked_at = now

    def answered(self, actor: str, beat: Beat, now: float) -> None:
        """Take in an answer."""
        known = self._actors[actor]
        if known.asked_at is not None:
            known.answered_to = known.asked_at
        known.asked_at, known.beat, known.heard_at = None, beat, now
        known.told.discard("silent")
        stopped = [child.pid for child in beat.children if child.state == STOPPED]
        known.stopped_since = {pid: known.stopped_since.get(pid, now) for pid in stopped}
        if not stopped:
            known.told.discard(STOPPED)

    def forget(self, actor: str) -> None:
        """An actor is gone, or another has taken its place."""
        self._actors.pop(actor, None)

    def spare(self, actor: str, now: float) -> None:
        """Count its silence from now on: it was seen to be busy."""
        self._actors[actor].asked_at = now

    def beats(self) -> Mapping[str, tuple[Beat, float]]:
        """Return the newest beat of every actor that has started, and when it was heard."""
        return {
            name: (known.beat, known.heard_at)
            for name, known in self._actors.items()
            if known.beat and known.beat.is_started
        }

    def silence_s(self, actor: str, now: float) -> float:
        """Return how long an actor has owed an answer."""
        asked_at = self._actors[actor].asked_at
        return 0.0 if asked_at is None else now - asked_at

    def judge(self, now: float) -> Iterator[Verdict]:
        """Yield what is to be done now; lines are yielded once."""
        for actor, (beat, heard_at) in self.beats().items():
            silence_s = self.silence_s(actor, now)
            if silence_s >= self._silent_after_s:
                yield from self._silent(actor, beat, silence_s)
            elif "silent" not in self._actors[actor].told:
                yield from self._long(actor, beat, now - heard_at)
            yield from self._stopped(actor, beat, now)

    def _silent(self, actor: str, beat: Beat, silence_s: float) -> Iterator[Verdict]:
        if self._is_new(actor, "silent"):
            yield Verdict(actor, "late", f"waiting {silence_s:.0f} s for {_named(actor, beat)}")
        if silence_s >= self._hung_after_s and self._others_answer(actor):
            text = f"{_named(actor, beat)} has given no sign of life for {silence_s:.0f} s"
            yield Verdict(actor, "hung", text)

    def _stopped(self, actor: str, beat: Beat, now: float) -> Iterator[Verdict]:
        for pid, since in self._actors[actor].stopped_since.items():
            if (seconds := now - since) < self._silent_after_s:
                continue
            name = next(child.name for child in beat.children if child.pid == pid)
            what = f"its process {name} (pid {pid}) is stopped"
            if self._is_new(actor, STOPPED):
                text = f"waiting {seconds:.0f} s for {_named(actor, beat)}: {what}"
                yield Verdict(actor, "late", text)
            text = f"{_named(actor, beat)} hangs: {what}, for {seconds:.0f} s"
            yield Verdict(actor, "hung", text, is_certain=True)
            return

    def _long(self, actor: str, beat: Beat, heard_ago_s: float) -> Iterator[Verdict]:
        seconds, usual_s = beat.seconds + heard_ago_s, beat.usual_s
        if not beat.phase or usual_s is None or seconds < max(LONG_S, TIMES_MEDIAN * usual_s):
            self._actors[actor].told.discard("long")
        elif self._is_new(actor, "long"):
            text = f"waiting {seconds:.0f} s for {_named(actor, beat)}, usually {usual_s:.1f} s"
            yield Verdict(actor, "late", text)

    def _others_answer(self, actor: str) -> bool:
        """Whether somebody answered a question that was asked after this actor's."""
        asked_at = self._actors[actor].asked_at
        return asked_at is not None and any(
            known.answered_to > asked_at for name, known in self._actors.items() if name != actor
        )

    def _is_new(self, actor: str, what: str) -> bool:
        told = self._actors[actor].told
        is_new = what not in told
        told.add(what)
        return is_new


def is_busy(first: Look | None, second: Look) -> bool:
    """Whether a silent process computes or waits for a disk, and so may answer yet.

    C code that keeps Python's lock, such as the pickling of something large, lets no beat through.
    """
    if first is None or second.state == STOPPED:
        return False
    used_s, passed_s = second.cpu_s - first.cpu_s, second.at - first.at
    return second.state == ON_DISK or used_s >= BUSY_SHARE * max(1.0, passed_s)


def _named(actor: str, beat: Beat) -> str:
    return f"{actor} ({beat.phase or 'idle'})"
