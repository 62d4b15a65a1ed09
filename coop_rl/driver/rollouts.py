"""The loop's roles that sample: prompts out, scored groups in.

`driver.window` decides which prompts are sampled when and which groups make a batch; `generation`
has them sampled and scored. Called by `algorithm.train`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from coop_rl.algorithm.estimators import RlEstimator
from coop_rl.config import RunConfig
from coop_rl.config.estimators import DapoRl
from coop_rl.config.sizes import scaffold_fit_steps, scaffold_samples
from coop_rl.data.collection import Mixture
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import argument, put
from coop_rl.distributed.team import Team
from coop_rl.driver.fleet import SyncedFleet
from coop_rl.driver.generation import Generation, TeamGeneration
from coop_rl.driver.kept_groups import GROUPS, KeptGroup
from coop_rl.driver.window import Slot, Window
from coop_rl.rewards.noise import flip_rewards
from coop_rl.rewards.scoring import shuffle_rewards
from coop_rl.tracing.stages import Stages
from coop_rl.types import (
    NOTHING_GIVEN,
    Given,
    PolicyVersion,
    Prompt,
    Sampled,
    SamplingSettings,
    ScoredGroup,
    SourceBatch,
)

SEED_STRIDE = 1_000_003
"""Keeps the seeds of different steps and runs apart before they are hashed per sample."""
SHADOW_SEED = 500_009
"""Added to the seed of rollouts of the shadow: equal weights must not draw equal samples."""
SCAFFOLD_SEED = 750_019
"""Added to the seed of second tries: a w that does nothing must not draw the same samples again."""
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


class TeamRollouts:
    """Rollouts of the policy: a window of prompts, sampled ahead as far as the lag allows."""

    def __init__(
        self,
        config: RunConfig,
        generation: Generation,
        prompts: Mixture[Prompt],
        estimator: RlEstimator,
        stages: Stages,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """Sample `prompts`; `decode` turns tokens that responses begin with into text."""
        self._config = config
        self._generation = generation
        self._prompts = prompts
        self._estimator = estimator
        self._stages = stages
        self._decode = decode
        self._given: Given = NOTHING_GIVEN
        seed, per_step = config.run.seed, config.prompts.per_step
        rl = config.method.rl_settings
        orders = {stream: prompts.order(per_step, seed, stream) for stream in (0, REFILL_STREAM)}
        # A step's slots are asked for one by one; those of a few steps are under way at once.
        self._batch = lru_cache(maxsize=16)(lambda stream, part: orders[stream].batch(part))
        self._window = Window(
            per_step=per_step,
            max_lag=config.rollout.max_policy_lag,
            max_refills=rl.max_refills if isinstance(rl, DapoRl) else 0,
            num_steps=config.run.num_steps,
            row_of=self._row,
        )
        self._done: dict[Slot, tuple[ScoredGroup, PolicyVersion, str]] = {}
        self._versions: dict[Slot, PolicyVersion] = {}
        self._restored: list[Slot] = []

    def begin(self, state: Mapping[str, Any]) -> None:
        """Go on with the groups of a run that ended; what was under way is sampled anew."""
        if not state:
            return
        kept = [self._fitting(one) for one in state.get(GROUPS, ())]
        groups = {one.slot: one for one in kept if one is not None}
        ended = [slot for _, slot in state.get("finished", [])] + state.get("dull", [])
        has_groups = {Slot(*slot) for slot in ended} <= groups.keys()
        self._restored = self._window.restore(state, has_groups=has_groups)
        if has_groups:
            self._done = {slot: (o.group, o.version, o.sampler) for slot, o in groups.items()}

    def state(self) -> dict[str, Any]:
        """Return which prompts were begun and not trained, and their groups that had ended.

        Without a lag there are none.
        """
        if not self._config.rollout.max_policy_lag:
            return {}
        return {
            **self._window.state(),
            GROUPS: [KeptGroup(slot, *done) for slot, done in self._done.items()],
        }

    def _fitting(self, kept: KeptGroup) -> KeptGroup | None:
        """Return a kept group with its prompt; None: prompts, or their number of responses, are
        others now."""
        prompt, was = self._prompts[self._row(kept.slot)], kept.group.prompt
        is_same = (prompt.id, prompt.token_ids) == (was.id, was.token_ids)
        num_samples = len(kept.group.rollouts)
        if not is_same or num_samples != self._config.rollout.samples_per_prompt:
            return None
        prompt = replace(prompt, given_ids=was.given_ids, given_text=was.given_text)
        return replace(kept, group=replace(kept.group, prompt=prompt))

    def next_batch(
        self, step: int, version: PolicyVersion, given: Given = NOTHING_GIVEN
    ) -> Sampled:
        """Wait for the groups of a step, and leave those of the following ones under way.

        Raises:
            VersionError: A group was sampled with older weights than the lag allows.
        """
        self._given = given
        self._generation.settle()
        with self._stages.stage("generate"):
            for slot in (*self._restored, *self._window.begin(step)):
                self._submit(slot)
            self._restored = []
            self._generation.wait_until(lambda: self._window.is_ready(step))
            kept, vain = self._window.take(step)
        sampled = Sampled(
            *([self._checked(slot, version) for slot in slots] for slots in (kept, vain))
        )
        if not self._config.reward.shuffle:
            return sampled
        seed = step_sampling(self._config, step).seed
        return Sampled(shuffle_rewards(sampled.groups, seed=seed), sampled.dropped)

    def _submit(self, slot: Slot) -> None:
        self._generation.submit(
            self._prompt(slot),
            step_sampling(self._config, slot.step),
            partial(self._note_start, slot),
            partial(self._accept, slot),
            partial(self._take_back, slot),
        )

    def _prompt(self, slot: Slot) -> Prompt:
        """Return the prompt of a slot, with what its responses begin with."""
        prompt = self._prompts[self._row(slot)]
        given = self._given.get(prompt.id, ())
        return replace(prompt, given_ids=given, given_text=self._decode(given)) if given else prompt

    def _note_start(self, slot: Slot, version: PolicyVersion) -> None:
        self._versions[slot] = version
        self._window.started(slot, version.theta)

    def _take_back(self, slot: Slot) -> None:
        """Note that the engine that had a slot is lost; another one will start it anew."""
        del self._versions[slot]
        self._window.returned(slot)

    def _accept(self, slot: Slot, group: ScoredGroup, sampler: str) -> None:
        """Keep a scored group, and put a refill in its place where it says nothing."""
        section = self._config.reward
        if section.flip_probability > 0.0:
            seed = step_sampling(self._config, slot.step).seed
            (group,) = flip_rewards([group], section.flip_probability, section.weight, seed)
        self._done[slot] = group, self._versions.pop(slot), sampler
        is_informative = self._estimator.is_informative(group)
        refill = self._window.finished(slot, is_informative=is_informative)
        if refill is not None:
            self._submit(refill)

    def _checked(self, slot: Slot, version: PolicyVersion) -> ScoredGroup:
        """Return the group of a slot, if the weights it was sampled with are new enough."""
        group, started, sampler = self._done.pop(slot)
        section = self._config.rollout
        if not section.in_flight_updates:
            group.require_version(started, sampler)
        group.require_lag(version, section.max_policy_lag, sampler)
        return group

    def _row(self, slot: Slot) -> int:
        """Return which row of the prompts a slot stands for."""
        per_step = self._config.prompts.per_step
        part, index = divmod(slot.position, per_step)
        return self._batch(REFILL_STREAM if slot.is_refill else 0, part)[index]


class TeamShadowRollouts:
    """Rollouts of the shadow pi(theta-hat, w), sent to its rollout actors before every batch."""

    def __init__(
        self, config: RunConfig, fleet: SyncedFleet, generation: TeamGeneration, stages: Stages
    ) -> None:
        self._config = config
        self._fleet = fleet
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
        send = partial(self._fleet.publish, version)
        self._generation.change_weights(version, send, is_read=True)
        return self._generation.run(prompts, sampling, version)


class TeamScaffoldRollouts:
    """Second tries of pi(theta, w), which rollout actors serve until theta is published next."""

    def __init__(
        self,
        config: RunConfig,
        team: Team,
        fleet: SyncedFleet,
        generation: TeamGeneration,
        stages: Stages,
    ) -> None:
        """Sample with `generation` on `fleet`, those of the policy."""
        self._config = config
        self._is_fitted_first = scaffold_fit_steps(config) > 0
        self._team = team
        self._fleet = fleet
        self._generation = generation
        self._stages = stages

    def next_batch(
        self,
        step: int,
        version: PolicyVersion,
        failed: Sequence[ScoredGroup],
        shown: SourceBatch,
    ) -> Sequence[ScoredGroup]:
        """Publish theta + s*B*A, fitted to `shown` first where the method says so, and sample."""
        sampling = replace(
            step_sampling(self._config, step, SCAFFOLD_SEED),
            num_samples=scaffold_samples(self._config),
        )
        with self._stages.stage("generate_scaffold"):
            if self._is_fitted_first:
                batch = argument(put(shown))
                fitting = [rank.call(LearnerActor.fit_scaffold, batch) for rank in self._team.joint]
                gather(fitting, self._config.placement.call_timeout_s)
            send = partial(self._fleet.publish_scaffold, version)
            self._generation.change_weights(version, send, is_read=True)
            return self._generation.run([group.prompt for group in failed], sampling, version)
