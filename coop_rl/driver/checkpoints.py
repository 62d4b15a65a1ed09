"""The loop's role `Checkpoints`: all roles saved and restored together, at step boundaries.

learners, meta-controller --save--> one folder of driver.checkpoint_store, complete or absent
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coop_rl.algorithm.roles import Progress
from coop_rl.config import RunConfig
from coop_rl.distributed.actors import MetaControllerActor
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.driver.checkpoint_store import CheckpointStore, stored_progress
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import Interrupted
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion


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
    ) -> None:
        self._config = config
        self._team = team
        self._store = store
        self._resume_from = resume_from
        self._stop = stop
        self._stages = stages
        self._boundary = Progress(0, PolicyVersion(0, 0))
        self._best = config.checkpoint.best
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
        every = self._config.checkpoint.every
        is_due = (every > 0 and done % every == 0) or done == self._config.run.num_steps
        if is_due or self._stop.is_set:
            self._save()
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
        self._store.mark_best(step, self._best, evaluated[self._best])

    def save_and_stop(self) -> None:
        """Save the last boundary, for a stop that broke off the generation after it.

        Raises:
            Interrupted: Always; everything is saved.
        """
        if self.last is None or stored_progress(self.last) != self._boundary:
            self._save()
        self._interrupt()

    def _save(self) -> None:
        with self._stages.stage("save"):
            temporary = self._store.begin(self._boundary.next_step)
            folder, meta = str(temporary), self._team.meta
            saving = [rank.call(LearnerActor.save, folder) for rank in self._team.learners]
            if meta:
                saving.append(meta.call(MetaControllerActor.save, folder))
            gather(saving, self._config.placement.call_timeout_s)
            self.last = self._store.commit(temporary, self._boundary)

    def _interrupt(self) -> None:
        raise Interrupted(
            f"after step {self._boundary.next_step}; everything is in {self.last}; "
            "run the same command to go on"
        )
