"""The loop's roles that train and publish: each turns one verb into remote calls with a limit.

    TeamLearners         step         batches --> joint learner and shadow --> what they report
    TeamMetaController   update       gradients of w --> meta-controller --w--> all learners
    TeamWeights          publish      joint learner --merged weights--> rollout actors, canary

Called by `algorithm.train`; rollouts are in `driver.rollouts`. The driver holds no tensors: the
gradients of w stay with the learners until the meta-controller opens them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_adapter
from coop_rl.distributed.actors import MetaControllerActor, RolloutActor
from coop_rl.distributed.calls import Call, gather, open_result, wait_for
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import argument, put
from coop_rl.distributed.team import Team
from coop_rl.driver.fleet import SyncedFleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.errors import WeightSyncError
from coop_rl.tracing.stages import Stages
from coop_rl.types import (
    BranchBatch,
    CooperativeGain,
    Guidance,
    GuidanceUpdate,
    Objective,
    PolicyVersion,
    StepResult,
)
from coop_rl.weights.receipt import Receipt, describe_difference

SHADOW_OBJECTIVE = Objective(rl_weight=1.0, sft_weight=0.0)
"""The shadow learns from rewards alone; that is what makes it the shadow."""


class TeamLearners:
    """Both learner groups, stepped at the same time."""

    def __init__(self, config: RunConfig, team: Team, stages: Stages) -> None:
        self._timeout_s = config.placement.call_timeout_s
        self._sync_timeout_s = config.sync.timeout_s
        self._is_colocated = config.placement.colocated
        self._team = team
        self._stages = stages

    def step(
        self, step: int, batches: tuple[BranchBatch, BranchBatch], objective: Objective
    ) -> tuple[StepResult, StepResult | None]:
        """Step `joint` and `shadow`, as a rule on the same packed batch."""
        shadow_objective = replace(SHADOW_OBJECTIVE, resync_shadow=objective.resync_shadow)
        if self._is_colocated:
            with self._stages.stage("sleep"):
                sleeping = [engine.call(RolloutActor.sleep) for engine in self._team.engines]
                gather(sleeping, self._sync_timeout_s)
        with self._stages.stage("train"):
            joint_batch = argument(put(batches[0]))
            is_shared = batches[1] is batches[0] or not self._team.shadow
            shadow_batch = joint_batch if is_shared else argument(put(batches[1]))
            joint = [
                rank.call_pair(LearnerActor.step, step, joint_batch, objective)
                for rank in self._team.joint
            ]
            shadow = [
                rank.call_pair(LearnerActor.step, step, shadow_batch, shadow_objective)
                for rank in self._team.shadow
            ]
            results = gather([call for call, _ in joint + shadow], self._timeout_s)
        # The gradients of w stay with the first ranks until the meta-controller opens them.
        first = replace(results[0], adapter_gradients=argument(joint[0][1]))
        if not shadow:
            return first, None
        return first, replace(results[len(joint)], adapter_gradients=argument(shadow[0][1]))


class TeamMetaController:
    """The meta-controller actor, and the push of w to both learner groups."""

    def __init__(self, config: RunConfig, team: Team, stages: Stages) -> None:
        self._timeout_s = config.sync.timeout_s
        self._has_adapter = has_adapter(config)
        self._team = team
        self._stages = stages

    def update(
        self, joint: StepResult, shadow: StepResult | None, gain: CooperativeGain | None
    ) -> GuidanceUpdate | None:
        """Move w by what the step reported, and push it to every learner by one broadcast.

        The push is asked for at once: the meta-controller takes its calls in order, and learners
        wait in the broadcast, so no answer has to come back here in between. Publishing has to wait
        for both, since what is published holds w.
        """
        meta = self._team.meta
        if meta is None:
            return None
        theirs = shadow.adapter_gradients if shadow else None
        report = replace(joint, adapter_gradients=None)
        with self._stages.stage("update"):
            update = meta.call(
                MetaControllerActor.update, report, joint.adapter_gradients, theirs, gain
            )
            push = self._start_push()
            wait_for([update, *push], self._timeout_s)
            self._compare(gather(push, self._timeout_s))
        return open_result(update, [])

    def guidance(self) -> Guidance | None:
        """Ask what the next step follows besides w."""
        if self._team.meta is None:
            return None
        (guidance,) = gather([self._team.meta.call(MetaControllerActor.guidance)], self._timeout_s)
        return guidance

    def push(self) -> None:
        """Send w as it is to every learner, and compare what each holds afterwards.

        Raises:
            WeightSyncError: A learner's w is not the meta-controller's; names both and a tensor.
        """
        self._compare(gather(self._start_push(), self._timeout_s))

    def _start_push(self) -> list[Call[Receipt]]:
        """Start a push of w, the meta-controller's call first; nothing where there is no w."""
        if self._team.meta is None or not self._has_adapter:
            return []
        calls = [rank.call(LearnerActor.receive_w) for rank in self._team.learners]
        return [self._team.meta.call(MetaControllerActor.push_w), *calls]

    def _compare(self, receipts: Sequence[Receipt]) -> None:
        if not receipts:
            return
        ours, *held = receipts
        for member, receipt in zip(self._team.learners, held, strict=True):
            if (tensor := describe_difference(receipt, ours)) is not None:
                raise WeightSyncError(
                    f"{member.name} holds another w than the meta-controller pushed: {tensor}"
                )


class TeamWeights:
    """Sends the merged weights theta + s*B*A of the joint learner to the rollout actors."""

    def __init__(self, generation: TeamGeneration, fleet: SyncedFleet) -> None:
        """Send to `fleet`; `generation` knows when nothing is sampled."""
        self._generation = generation
        self._fleet = fleet

    def publish(self, version: PolicyVersion, *, is_read: bool) -> PolicyVersion:
        """Let every rollout actor serve `version`, now or once somebody samples; return it."""
        send = partial(self._fleet.publish, version)
        self._generation.change_weights(version, send, is_read=is_read)
        return version
