"""The loop's role `Checkpoints`: all roles saved and restored together, at step boundaries.

learners, meta-controller --save--> one folder of driver.checkpoint_store, complete or absent

Where learners have devices of their own they copy their state to host memory, which takes a moment,
and write it while they train; the folder is committed at the first boundary where all are done.
"""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from coop_rl.algorithm.roles import Progress
from coop_rl.config import RunConfig
from coop_rl.config.sizes import writes_beside
from coop_rl.distributed.actors import MetaControllerActor
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.driver.checkpoint_mirror import CheckpointMirror
from coop_rl.driver.checkpoint_store import CheckpointStore, stored_progress
from coop_rl.driver.kept_groups import GROUPS, KeptGroup, read_groups, write_groups
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import ActorLostError, DivergedError, Interrupted, RunError
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion

SNAPSHOT_SHARE = 0.05
"""The largest share of a run's time that snapshots may take."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A checkpoint that learners write while they train."""

    temporary: Path
    boundary: Progress
    is_snapshot: bool
    digests: Mapping[str, str]
    """Of what is written already."""


class TeamCheckpoints:
    """Implements `algorithm.roles.Checkpoints`; every checkpoint is of one boundary of steps."""

    def __init__(
        self,
        config: RunConfig,
        team: Team,
        store: CheckpointStore,
        resume_from: Path | None,
        stop: StopRequest,
        stages: Stages,
        warn: Callable[[str], None] = lambda _: None,
        mirror: CheckpointMirror | None = None,
    ) -> None:
        """Save into `store`; `warn` gets a line when that failed and the run goes on."""
        self._mirror = mirror
        self._config = config
        self._team = team
        self._store = store
        self._resume_from = resume_from
        self._stop = stop
        self._stages = stages
        self._warn = warn
        self._boundary = Progress(0, PolicyVersion(0, 0))
        self._groups: Sequence[KeptGroup] = ()
        self._begun: _Begun | None = None
        self._is_beside = writes_beside(config)
        self._best = config.checkpoint.best
        self._saved_at, self._save_s = monotonic(), 0.0
        self.last: Path | None = resume_from
        """The checkpoint that was written last, by this run or the one it goes on from."""

    def restore(self) -> Progress:
        """Load the checkpoint the run resumes from, if any; it was verified when it was found."""
        if self._resume_from:
            self._boundary = stored_progress(self._resume_from)
            self._groups = read_groups(self._resume_from)
            if self._mirror and self._store.owns(self._resume_from):
                self._mirror.note(self._resume_from)
            folder, meta = str(self._resume_from), self._team.meta
            loading = [rank.call(LearnerActor.load, folder) for rank in self._team.learners]
            if meta:
                loading.append(meta.call(MetaControllerActor.load, folder))
            gather(loading, self._config.placement.call_timeout_s)
        if not self._groups:
            return self._boundary
        return replace(self._boundary, rollouts={**self._boundary.rollouts, GROUPS: self._groups})

    def maybe_save(
        self,
        step: int,
        version: PolicyVersion,
        method: Mapping[str, Any],
        rollouts: Mapping[str, Any],
    ) -> None:
        """Save when due, at the end, or when a stop was asked for.

        Raises:
            Interrupted: A stop was asked for; everything is saved.
        """
        done = step + 1
        self._settle(waits=False)
        self._tell()
        self._groups = rollouts.get(GROUPS, ())
        begun = {name: value for name, value in rollouts.items() if name != GROUPS}
        self._boundary = Progress(done, version, dict(method), begun)
        every, is_end = self._config.checkpoint.every, done == self._config.run.num_steps
        is_last = is_end or self._stop.is_set
        if is_last or (every > 0 and done % every == 0):
            self._save(is_last=is_last)
        elif self._begun is None and self._is_snapshot_due(done):
            self._save(is_snapshot=True)
        if self._stop.is_set:
            self._interrupt()

    def keep_best(self, step: int, evaluated: Mapping[str, float]) -> None:
        """Keep the state after `step` steps where its validation is the best so far.

        The method's state is that of the boundary, before it saw the evaluation: a resumed run
        repeats the evaluation.
        """
        if self._best is None or self._best not in evaluated or step == 0:
            return
        if not self._store.is_better(self._best, evaluated[self._best]):
            return
        self._settle(waits=True)
        if self.last is None or stored_progress(self.last).next_step != step:
            self._save()
        if self.last is None or stored_progress(self.last).next_step != step:
            return  # it could not be saved
        try:
            self._store.mark_best(step, self._best, evaluated[self._best])
            if self._mirror:
                self._mirror.note(self.last)
        except OSError as error:
            self._warn(f"{error.filename} cannot be written: {error.strerror}; the run goes on")

    def save_and_stop(self) -> None:
        """Save the last boundary, for a stop that broke off the generation after it.

        Raises:
            Interrupted: Always; everything is saved.
        """
        self._save_boundary()
        self._interrupt()

    def save_before_failing(self) -> str:
        """Save the last boundary, for a failure that struck before the learners moved on.

        Returns:
            What the user should know of it.
        """
        if self._boundary.next_step == 0:
            return "nothing was trained yet"
        self._save_boundary()
        return f"the {self._boundary.next_step} steps before are in {self.last}"

    def _save_boundary(self) -> None:
        self._settle(waits=True)
        if self.last is None or stored_progress(self.last) != self._boundary:
            self._save(is_last=True)

    def _is_snapshot_due(self, done: int) -> bool:
        """Whether one is asked for after `done` steps, and cheap enough by what the last save took.

        The first one is always taken, since nobody knows what it takes.
        """
        every = self._config.recovery.snapshot_every
        allowed_s = SNAPSHOT_SHARE * (monotonic() - self._saved_at)
        return every > 0 and done % every == 0 and self._save_s <= allowed_s

    def _save(self, *, is_last: bool = False, is_snapshot: bool = False) -> None:
        """Save the boundary; a failure is told and leaves what was saved before.

        Raises:
            RunError: It failed and the run ends here (`is_last`), or cannot be mended.
        """
        self._settle(waits=True)
        started = monotonic()
        with self._stages.stage("save"), self._failing_aloud(self._boundary, is_last=is_last):
            self._require_room()
            self._begin(is_beside=self._is_beside and not is_last, is_snapshot=is_snapshot)
        self._saved_at = monotonic()
        self._save_s = self._saved_at - started

    @contextmanager
    def _failing_aloud(self, boundary: Progress, *, is_last: bool = False) -> Iterator[None]:
        """Tell of a failure inside, and leave nothing of what was being written.

        Raises:
            RunError: The run ends here (`is_last`), or it cannot be mended.
        """
        try:
            yield
        except (OSError, RunError) as error:
            self._store.clear()
            text = self._failure(boundary, error)
            if isinstance(error, ActorLostError):  # who was lost comes first: lines are cut short
                raise type(error)(text, error.actors, error.cause) from None
            if is_last or isinstance(error, DivergedError):
                kind = type(error) if isinstance(error, RunError) else RunError
                raise kind(text) from None
            self._warn(f"{text}; the run goes on")

    def _begin(self, *, is_beside: bool, is_snapshot: bool) -> None:
        """Let everybody write; learners go on writing while they train where `is_beside`."""
        temporary = self._store.begin(self._boundary.next_step)
        folder, meta = str(temporary), self._team.meta
        write_groups(temporary, self._groups)
        saving = [rank.call(LearnerActor.save, folder, is_beside) for rank in self._team.learners]
        if meta:
            saving.append(meta.call(MetaControllerActor.save, folder))
        begun = _Begun(temporary, self._boundary, is_snapshot, self._gather(saving))
        if is_beside:
            self._begun = begun
        else:
            self._commit(begun, begun.digests)

    def _settle(self, *, waits: bool) -> None:
        """Commit what is written beside training, if it is there by now, or wait for it."""
        if (begun := self._begun) is None:
            return
        self._begun = None
        with self._failing_aloud(begun.boundary):
            found = self._written(waits=waits)
            if None in found:
                self._begun = begun
            else:
                self._commit(begun, _together([begun.digests, *(one or {} for one in found)]))

    def _written(self, *, waits: bool) -> list[dict[str, str] | None]:
        """Return the digests of every rank that is done; nobody still writes when this raises."""
        learners, limit_s = self._team.learners, self._config.placement.call_timeout_s
        try:
            return gather([rank.call(LearnerActor.written, waits) for rank in learners], limit_s)
        except ActorLostError:
            raise
        except RunError:
            self._wait_for([rank.call(LearnerActor.written, True) for rank in learners])
            raise

    def _commit(self, begun: _Begun, digests: Mapping[str, str]) -> None:
        self.last = self._store.commit(
            begun.temporary, begun.boundary, is_snapshot=begun.is_snapshot, digests=digests
        )
        if self._mirror and not begun.is_snapshot:
            self._mirror.note(self.last)

    def _gather(self, saving: Sequence[Call[dict[str, str]]]) -> dict[str, str]:
        """Return all digests; nobody still writes when this returns or raises."""
        try:
            return _together(gather(saving, self._config.placement.call_timeout_s))
        except ActorLostError:
            raise
        except RunError:
            self._wait_for(saving)
            raise

    def _wait_for(self, calls: Sequence[Call[object]]) -> None:
        """Wait until each of the calls has ended, also badly: the folder is about to be removed."""
        for call in calls:
            with suppress(RunError):
                gather([call], self._config.placement.call_timeout_s)

    def close(self, say: Callable[[str], None]) -> None:
        """Wait until the last checkpoint is copied to the target; a second stop breaks that off."""
        if self._mirror:
            self._mirror.finish(self._config.placement.call_timeout_s, self._stop.check, say)
        self._tell()

    def _tell(self) -> None:
        for line in self._mirror.lines() if self._mirror else ():
            self._warn(line)

    def _require_room(self) -> None:
        """Refuse to begin a checkpoint that the disk has no room for, by the size of the last one.

        Raises:
            OSError: Says how much is missing.
        """
        needed, free = self._store.num_bytes(), self._store.free_bytes()
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} free")

    def _failure(self, boundary: Progress, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        last = f"the last checkpoint is {self.last}" if self.last else "there is no checkpoint"
        failed = f"no checkpoint after step {boundary.next_step}"
        if isinstance(error, ActorLostError):
            return f"{reason}; {failed}; {last}"
        return f"{failed}: {reason}; {last}"

    def _interrupt(self) -> None:
        raise Interrupted(
            f"after step {self._boundary.next_step}; everything is in {self.last}; "
            "run the same command to go on"
        )


def _together(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the entries of all."""
    return {name: digest for one in found for name, digest in one.items()}
