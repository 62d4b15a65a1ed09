"""The loop's roles `Rollouts` and `ShadowRollouts` on Ray: prompts out, scored groups in.

Called by `algorithm.train`. `rollout.window` says which prompts, `distributed.generation` samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coop_rl.algorithm.estimators import RlEstimator
from coop_rl.config import RunConfig
from coop_rl.config.method import DapoRl, rl_settings
from coop_rl.data.collection import Mixture
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.generation import Generation
from coop_rl.distributed.team import Team
from coop_rl.errors import VersionError
from coop_rl.observability.stages import Stages
from coop_rl.rewards.noise import flip_rewards
from coop_rl.rewards.scoring import shuffle_rewards
from coop_rl.rollout.window import Place, Window
from coop_rl.types import PolicyVersion, Prompt, Sampled, SamplingSettings, ScoredGroup

SEED_STRIDE = 1_000_003
"""Keeps the seeds of different steps and runs apart before they are hashed per sample."""
SHADOW_SEED = 500_009
"""Added for the shadow's own rollouts: equal branches must not draw equal samples."""
REFILL_STREAM = 2
"""Order stream of the prompts that dynamic sampling puts in; prompts use 0, demonstrations 1."""


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
        self._max_lag = config.rollout.max_policy_lag
        self._window = Window(per_step, self._max_lag, self._order.batch, self._refills_of)
        self._groups: dict[Place, ScoredGroup] = {}

    def restore(self, next_step: int, state: Mapping[str, Any]) -> None:
        """Go on at a step; prompts that were on their way are started again."""
        self._window.restore(next_step, state)

    def state(self) -> Mapping[str, Any]:
        """Return what `restore` needs, as JSON."""
        return self._window.state()

    def next_batch(self, step: int, version: PolicyVersion) -> Sampled:
        """Return the groups of a step; with a lag, later steps' prompts go on being sampled.

        Raises:
            VersionError: A group is older than `rollout.max_policy_lag` allows.
        """
        with self._stages.stage("generate"):
            for place in self._window.begin(step):
                self._start(place)
            while (chosen := self._window.choose()) is None:
                self._generation.wait()
        groups = [self._groups.pop(place) for place in chosen.places]
        dropped = [self._groups.pop(place) for place in chosen.dropped]
        for group in groups:
            self._check_age(group, version)
        if not self._config.reward.shuffle:
            return Sampled(groups, dropped)
        return Sampled(
            shuffle_rewards(groups, seed=step_sampling(self._config, step).seed), dropped
        )

    def settle(self) -> None:
        """Before the weights change: wait for what is on its way, unless it may go on with them."""
        if self._config.rollout.in_flight_updates or self._generation.num_under_way == 0:
            return
        with self._stages.stage("generate_rest"):
            self._generation.settle()

    def _start(self, place: Place) -> None:
        sampling = step_sampling(self._config, place.batch)

        def keep(group: ScoredGroup) -> None:
            self._keep(place, self._with_noise(group, sampling.seed))

        self._generation.start(self._prompts[place.row], sampling, keep)

    def _keep(self, place: Place, group: ScoredGroup) -> None:
        self._groups[place] = group
        is_informative = self._max_refills == 0 or self._estimator.is_informative(group)
        instead = self._window.finish(place, is_informative=is_informative)
        if instead is not None:
            self._start(instead)

    def _with_noise(self, group: ScoredGroup, seed: int) -> ScoredGroup:
        section = self._config.reward
        if section.flip_probability == 0.0:
            return group
        (flipped,) = flip_rewards([group], section.flip_probability, section.weight, seed)
        return flipped

    def _check_age(self, group: ScoredGroup, version: PolicyVersion) -> None:
        if self._max_lag == 0:
            group.require_version(version, "a rollout actor")
            return
        oldest = min(rollout.version for rollout in group.rollouts)
        if not version.theta - self._max_lag <= oldest.theta <= version.theta:
            raise VersionError(
                f"prompt {group.prompt.id} was sampled with {oldest}, the policy is at {version} "
                f"and rollout.max_policy_lag is {self._max_lag}"
            )

    def _refills_of(self, step: int) -> Iterator[int]:
        for number in range(step * self._max_refills, (step + 1) * self._max_refills):
            yield from self._refills.batch(number)


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
