"""The loop's roles `Rollouts` and `ShadowRollouts` on Ray: prompts out, scored groups in.

Each group goes rollout actor -> reward actor directly. Called by `algorithm.train`.
"""

from collections.abc import Callable, Sequence

from coop_rl.algorithm.estimators import RlEstimator
from coop_rl.config import RunConfig
from coop_rl.config.method import DapoRl, rl_settings
from coop_rl.config.schema import ServingConfig
from coop_rl.data.collection import Mixture
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.checkpoints import StopRequest
from coop_rl.distributed.team import Member, Team
from coop_rl.observability.stages import Stages
from coop_rl.rewards.noise import flip_rewards
from coop_rl.rewards.scoring import shuffle_rewards
from coop_rl.types import PolicyVersion, Prompt, Sampled, SamplingSettings, ScoredGroup

SEED_STRIDE = 1_000_003
"""Keeps the seeds of different steps and runs apart before they are hashed per sample."""
SHADOW_SEED = 500_009
"""Added for the shadow's own rollouts: equal branches must not draw equal samples."""
REFILL_STREAM = 2
"""Order stream of the prompts that dynamic sampling puts in; prompts use 0, demonstrations 1."""


class Generation:
    """Sampling and scoring on a set of rollout actors, with limits, stoppable between steps."""

    def __init__(
        self,
        config: ServingConfig,
        members: Sequence[Member],
        reward: Member,
        stop: StopRequest,
        on_group: Callable[[], None] | None = None,
    ) -> None:
        """Sample on `members`, judge with `reward`; `on_group` is called after each sampled one."""
        self._members = members
        self._reward = reward
        self._stop = stop
        self._timeout_s = config.placement.call_timeout_s
        self._on_group = on_group

    def run(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> Sequence[ScoredGroup]:
        """Return one scored group per prompt, in order, all sampled at `version`.

        Raises:
            VersionError: A rollout actor sampled with other weights.
        """
        members = [self._members[i % len(self._members)] for i in range(len(prompts))]
        generating = [
            member.call("generate", "generate_group", prompt, sampling)
            for member, prompt in zip(members, prompts, strict=True)
        ]
        scoring = [self._reward.call("score", "score", call.ref) for call in generating]
        with self._stop.at_boundary():
            gather(generating, self._timeout_s, self._on_group)
            groups: list[ScoredGroup] = gather(scoring, self._timeout_s)
        for call, group in zip(generating, groups, strict=True):
            group.require_version(version, call.actor)
        return groups


def step_sampling(config: RunConfig, step: int, offset: int = 0) -> SamplingSettings:
    """Return how a step samples; `offset` tells independent draws of one step apart."""
    section = config.rollout
    return SamplingSettings(
        num_samples=section.samples_per_prompt,
        temperature=section.temperature,
        top_p=1.0,
        max_tokens=section.max_tokens,
        seed=config.run.seed * SEED_STRIDE + step + offset,
    )


class RayRollouts:
    """The joint branch's rollouts, with dynamic sampling where the estimator wants it."""

    def __init__(
        self,
        config: RunConfig,
        generation: Generation,
        prompts: Mixture[Prompt],
        estimator: RlEstimator,
        stages: Stages,
    ) -> None:
        self._config = config
        self._generation = generation
        self._prompts = prompts
        self._estimator = estimator
        self._stages = stages
        seed, per_step = config.run.seed, config.prompts.per_step
        rl = rl_settings(config.method)
        self._max_refills = rl.max_refills if isinstance(rl, DapoRl) else 0
        self._order = prompts.order(per_step, seed)
        self._refills = prompts.order(per_step, seed, REFILL_STREAM)

    def next_batch(self, step: int, version: PolicyVersion) -> Sampled:
        """Generate and score the prompts of a step."""
        with self._stages.stage("generate"):
            sampled = self._sample(step, version)
        if not self._config.reward.shuffle:
            return sampled
        seed = step_sampling(self._config, step).seed
        return Sampled(shuffle_rewards(sampled.groups, seed=seed), sampled.dropped)

    def _with_noise(self, groups: Sequence[ScoredGroup], seed: int) -> Sequence[ScoredGroup]:
        section = self._config.reward
        if section.flip_probability == 0.0:
            return groups
        return flip_rewards(groups, section.flip_probability, section.weight, seed)

    def _sample(self, step: int, version: PolicyVersion) -> Sampled:
        """Sample until there are P groups to learn from, or the refills are used up."""
        sampling, wanted = step_sampling(self._config, step), self._config.prompts.per_step
        kept: list[ScoredGroup] = []
        dropped: list[ScoredGroup] = []
        used: set[int] = set()
        for rows in self._rounds(step):
            if used:  # a refill: prompts this step has not had
                rows = [row for row in dict.fromkeys(rows) if row not in used]
            rows = rows[: wanted - len(kept)]
            used.update(rows)
            prompts = [self._prompts[row] for row in rows]
            groups = self._generation.run(prompts, sampling, version)
            for group in self._with_noise(groups, sampling.seed):
                is_kept = self._max_refills == 0 or self._estimator.is_informative(group)
                (kept if is_kept else dropped).append(group)
            if len(kept) == wanted:
                break
        # Too few: the groups that say nothing fill up, so that a step always has its size.
        missing = wanted - len(kept)
        return Sampled(kept + dropped[:missing], dropped[missing:])

    def _rounds(self, step: int) -> Sequence[list[int]]:
        refills = range(step * self._max_refills, (step + 1) * self._max_refills)
        return [self._order.batch(step), *(self._refills.batch(i) for i in refills)]


class RayShadowRollouts:
    """Rollouts of pi(theta-hat, w), which its actors are given anew before every batch."""

    def __init__(
        self, config: RunConfig, team: Team, generation: Generation, stages: Stages
    ) -> None:
        self._config = config
        self._team = team
        self._generation = generation
        self._stages = stages

    def next_batch(self, step: int, groups: Sequence[ScoredGroup]) -> Sequence[ScoredGroup]:
        """Publish theta-hat and sample on the prompts of `groups`."""
        sampling = step_sampling(self._config, step, SHADOW_SEED)
        with self._stages.stage("generate_shadow"):
            return self.generate([group.prompt for group in groups], sampling, step)

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, step: int
    ) -> Sequence[ScoredGroup]:
        """Return one scored group per prompt, sampled from the shadow after `step` steps."""
        version = PolicyVersion(step, step)
        calls: list[Call] = [m.call("publish", "publish", version) for m in self._team.shadow]
        gather(calls, 4 * self._config.sync.timeout_s)
        return self._generation.run(prompts, sampling, version)
