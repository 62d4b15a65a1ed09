"""Saving and restoring all roles together, and stopping at a step boundary when asked to."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from coop_rl.algorithm.roles import Progress
from coop_rl.config import RunConfig
from coop_rl.distributed.calls import gather
from coop_rl.distributed.team import Team
from coop_rl.errors import Interrupted
from coop_rl.learner.checkpoint import CheckpointStore, read_progress
from coop_rl.observability.stages import Stages
from coop_rl.types import PolicyVersion


class StopRequest:
    """Whether the user asked the run to stop; a second request ends it at once."""

    def __init__(self) -> None:
        self.is_set = False

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        if self.is_set:
            raise Interrupted("stopped at once; the last checkpoint stands")
        self.is_set = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM while the loop runs."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class RayCheckpoints:
    """All roles' state in one folder that is complete or absent."""

    def __init__(
        self,
        config: RunConfig,
        team: Team,
        store: CheckpointStore,
        resume_from: Path | None,
        stop: StopRequest,
        stages: Stages,
    ) -> None:
        self._config = config
        self._team = team
        self._store = store
        self._resume_from = resume_from
        self._stop = stop
        self._stages = stages
        self.last: Path | None = resume_from

    def restore(self) -> Progress:
        """Load the checkpoint the run resumes from, if any."""
        progress = Progress(0, PolicyVersion(0, 0))
        if self._resume_from:
            progress = read_progress(self._resume_from)
            members = self._team.learners + ((self._team.meta,) if self._team.meta else ())
            folder = str(self._resume_from)
            gather(
                [m.call("load", "load", folder) for m in members],
                self._config.placement.call_timeout_s,
            )
        return progress

    def maybe_save(self, step: int, version: PolicyVersion) -> None:
        """Save when due, at the end, or when a stop was asked for.

        Raises:
            Interrupted: A stop was asked for; everything is saved.
        """
        done = step + 1
        every = self._config.checkpoint.every
        is_due = (every > 0 and done % every == 0) or done == self._config.run.num_steps
        if not (is_due or self._stop.is_set):
            return
        with self._stages.stage("save"):
            temporary = self._store.begin(done)
            members = self._team.learners + ((self._team.meta,) if self._team.meta else ())
            calls = [m.call("save", "save", str(temporary)) for m in members]
            gather(calls, self._config.placement.call_timeout_s)
            self.last = self._store.commit(temporary, Progress(done, version))
        if self._stop.is_set:
            raise Interrupted(
                f"after step {done}; everything is in {self.last}; run the same command to go on"
            )
