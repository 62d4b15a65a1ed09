"""The loop's role `Checkpoints`: all roles saved and restored together, at step boundaries.

learners, meta-controller --save--> one folder of driver.checkpoint_store, complete or absent
"""

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from coop_rl.algorithm.roles import Progress
from coop_rl.config import RunConfig
from coop_rl.distributed.actors import MetaControllerActor
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.driver.checkpoint_store import CheckpointStore, stored_progress
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import ActorLostError, DivergedError, Interrupted, RunError
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion

SNAPSHOT_SHARE = 0.05
"""The largest share of a run's time that snapshots may take."""


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
    ) -> None:
        """Save into `store`; `warn` gets a line when that failed and the run goes on."""
        self._config = config
        self._team = team
        self._store = store
        self._resume_from = resume_from
        self._stop = stop
        self._stages = stages
        self._warn = warn
        self._boundary = Progress(0, PolicyVersion(0, 0))
        self._best = config.checkpoint.best
        self._saved_at, self._save_s = monotonic(), 0.0
        self.last: Path | None = resume_from
        """The checkpoint that was written last, by this run or the one it goes on from."""

    def restore(self) -> Progress:
        """Load the checkpoint the run resumes from, if any; it was verified when it was found."""
        if self._resume_from:
            self._boundary = stored_progress(self._resume_from)
            folder, meta = str(self._resume_from), self._team.meta
            loading = [rank.call(LearnerActor.load, folder) for rank in self._team.learners]
            if meta:
                loading.append(meta.call(MetaControllerActor.load, folder))
            gather(loading, self._config.placement.call_timeout_s)
        return self._boundary

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
        self._boundary = Progress(done, version, dict(method), dict(rollouts))
        every, is_end = self._config.checkpoint.every, done == self._config.run.num_steps
        is_last = is_end or self._stop.is_set
        if is_last or (every > 0 and done % every == 0):
            self._save(is_last=is_last)
        elif self._is_snapshot_due(done):
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
        if self.last is None or stored_progress(self.last).next_step != step:
            self._save()
        if self.last is None or stored_progress(self.last).next_step != step:
            return  # it could not be saved
        try:
            self._store.mark_best(step, self._best, evaluated[self._best])
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
        started = monotonic()
        with self._stages.stage("save"):
            try:
                self._require_room()
                self.last = self._write(is_snapshot=is_snapshot)
            except (OSError, RunError) as error:
                self._store.clear()
                if is_last or isinstance(error, ActorLostError | DivergedError):
                    kind = type(error) if isinstance(error, RunError) else RunError
                    raise kind(self._failure(error)) from None
                self._warn(f"{self._failure(error)}; the run goes on")
        self._saved_at = monotonic()
        self._save_s = self._saved_at - started

    def _write(self, *, is_snapshot: bool) -> Path:
        temporary = self._store.begin(self._boundary.next_step)
        folder, meta = str(temporary), self._team.meta
        saving = [rank.call(LearnerActor.save, folder) for rank in self._team.learners]
        if meta:
            saving.append(meta.call(MetaControllerActor.save, folder))
        try:
            gather(saving, self._config.placement.call_timeout_s)
        except ActorLostError:
            raise
        except RunError:
            for call in saving:  # nobody may still write when the folder is removed
                with suppress(RunError):
                    gather([call], self._config.placement.call_timeout_s)
            raise
        return self._store.commit(temporary, self._boundary, is_snapshot=is_snapshot)

    def _require_room(self) -> None:
        """Refuse to begin a checkpoint that the disk has no room for, by the size of the last one.

        Raises:
            OSError: Says how much is missing.
        """
        needed, free = self._store.num_bytes(), self._store.free_bytes()
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} free")

    def _failure(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        last = f"the last checkpoint is {self.last}" if self.last else "there is no checkpoint"
        return f"no checkpoint after step {self._boundary.next_step}: {reason}; {last}"

    def _interrupt(self) -> None:
        raise Interrupted(
            f"after step {self._boundary.next_step}; everything is in {self.last}; "
            "run the same command to go on"
        )
