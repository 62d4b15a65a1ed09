"""The loop's roles on Ray: each turns one verb into remote calls with a limit.

Called by `algorithm.train`; holds no tensors (gradients of w travel as unopened handles).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from coop_rl.config import RunConfig
from coop_rl.data.order import SeededOrder
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.canary import Canary
from coop_rl.distributed.checkpoints import StopRequest
from coop_rl.distributed.team import Member, Team
from coop_rl.errors import WeightSyncError
from coop_rl.observability.stages import Stages
from coop_rl.rewards.scoring import shuffle_rewards
from coop_rl.types import (
    CooperativeGain,
    GuidanceUpdate,
    Objective,
    PackedBatch,
    PolicyVersion,
    Prompt,
    SamplingSettings,
    ScoredGroup,
    StepResult,
)
from coop_rl.weights.receipt import describe_difference

SHADOW_OBJECTIVE = Objective(rl_weight=1.0, sft_weight=0.0)
SEED_STRIDE = 1_000_003
"""Keeps the seeds of different steps and runs apart before they are hashed per sample."""


class RayRollouts:
    """Prompts out, scored groups in; each group goes rollout actor -> reward actor directly."""

    def __init__(
        self,
        config: RunConfig,
        team: Team,
        prompts: Sequence[Prompt],
        stop: StopRequest,
        stages: Stages,
    ) -> None:
        self._config = config
        self._stop = stop
        self._team = team
        self._prompts = prompts
        self._order = SeededOrder(len(prompts), config.prompts.per_step, config.run.seed)
        self._stages = stages

    def next_batch(self, step: int, version: PolicyVersion) -> Sequence[ScoredGroup]:
        """Generate and score the prompts of a step."""
        section = self._config.rollout
        sampling = SamplingSettings(
            num_samples=section.samples_per_prompt,
            temperature=section.temperature,
            top_p=1.0,
            max_tokens=section.max_tokens,
            seed=self._config.run.seed * SEED_STRIDE + step,
        )
        with self._stages.stage("generate"):
            groups = self.generate(
                [self._prompts[i] for i in self._order.batch(step)], sampling, version
            )
        if self._config.reward.shuffle:
            return shuffle_rewards(groups, seed=sampling.seed)
        return groups

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> Sequence[ScoredGroup]:
        """Return one scored group per prompt, in order, all sampled at `version`.

        Raises:
            VersionError: A rollout actor sampled with other weights.
        """
        members = [self._team.rollouts[i % len(self._team.rollouts)] for i in range(len(prompts))]
        generating = [
            member.call("generate", "generate_group", prompt, sampling)
            for member, prompt in zip(members, prompts, strict=True)
        ]
        scoring = [self._team.reward.call("score", "score", call.ref) for call in generating]
        with self._stop.at_boundary():
            gather(generating, self._config.placement.call_timeout_s)
            groups: list[ScoredGroup] = gather(scoring, self._config.placement.call_timeout_s)
        for call, group in zip(generating, groups, strict=True):
            group.require_version(version, call.actor)
        return groups


class RayLearners:
    """Both learner groups, stepped at the same time."""

    def __init__(self, config: RunConfig, team: Team, stages: Stages) -> None:
        self._timeout_s = config.placement.call_timeout_s
        self._team = team
        self._stages = stages

    def step(
        self, step: int, batch: PackedBatch, objective: Objective
    ) -> tuple[StepResult, StepResult | None]:
        """Step `joint` and `rl_only` on the same packed batch."""
        shadow_objective = replace(SHADOW_OBJECTIVE, resync_shadow=objective.resync_shadow)
        with self._stages.stage("train"):
            batch_ref = ray.put(batch)
            joint = [self._start(m, step, batch_ref, objective) for m in self._team.joint]
            shadow = [self._start(m, step, batch_ref, shadow_objective) for m in self._team.shadow]
            results = gather([call for call, _ in joint + shadow], self._timeout_s)
        first = replace(results[0], adapter_gradients=joint[0][1])
        if not shadow:
            return first, None
        return first, replace(results[len(joint)], adapter_gradients=shadow[0][1])

    @staticmethod
    def _start(member: Member, step: int, batch_ref: Any, objective: Objective) -> tuple[Call, Any]:
        """Start one rank; its gradients of w stay remote until the meta-controller opens them."""
        result: Any
        gradients: Any
        result, gradients = member.handle.step.options(num_returns=2).remote(
            step, batch_ref, objective
        )
        return Call(member.name, "step", result), gradients


class RayMetaController:
    """The meta-controller actor, and the push of w to both learner groups."""

    def __init__(self, config: RunConfig, team: Team, stages: Stages) -> None:
        self._timeout_s = config.sync.timeout_s
        self._team = team
        self._stages = stages

    def update(
        self, joint: StepResult, shadow: StepResult | None, gain: CooperativeGain | None
    ) -> GuidanceUpdate | None:
        """Update w, then push it by one broadcast in the guidance group."""
        meta = self._team.meta
        if meta is None:
            return None
        gradients = [r.adapter_gradients if r else None for r in (joint, shadow)]
        with self._stages.stage("update"):
            update: GuidanceUpdate
            (update,) = gather([meta.call("update", "update", *gradients, gain)], self._timeout_s)
            self.push()
        return update

    def push(self) -> None:
        """Send w as it is to every learner, and compare what each holds afterwards.

        Raises:
            WeightSyncError: A learner's w is not the meta-controller's; names both and a tensor.
        """
        if self._team.meta is None:
            return
        calls = [m.call("receive guidance", "receive_guidance") for m in self._team.learners]
        ours, *receipts = gather(
            [self._team.meta.call("push guidance", "push"), *calls], self._timeout_s
        )
        for member, receipt in zip(self._team.learners, receipts, strict=True):
            if (tensor := describe_difference(receipt, ours)) is not None:
                raise WeightSyncError(
                    f"{member.name} holds another w than the meta-controller pushed: {tensor}"
                )


class RayWeights:
    """Weight sync of merged theta + s*B*A from `joint` to the rollout actors."""

    def __init__(self, config: RunConfig, team: Team, canary: Canary, stages: Stages) -> None:
        self._canary = canary
        # One sync is several calls, each limited by sync.timeout_s on its own.
        self._timeout_s = 4 * config.sync.timeout_s
        self._team = team
        self._stages = stages

    def publish(self, version: PolicyVersion) -> PolicyVersion:
        """Send `version` to every rollout actor, let the canary check it, and return it."""
        with self._stages.stage("publish"):
            calls = [m.call("publish", "publish", version) for m in self._team.joint]
            reports = gather(calls, self._timeout_s)
        self._stages.count("sync/bytes", reports[0].num_bytes)
        self._stages.count("sync/seconds", reports[0].seconds)
        self._canary.check_when_due(version)
        return version
