"""What the loop asks of a method: what a step needs, and what is learned from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from coop_rl.algorithm.estimators import Advantages, RlEstimator, build_estimator
from coop_rl.algorithm.gain import GainSettings, GainWindow
from coop_rl.algorithm.scaffold import splice
from coop_rl.config import RunConfig
from coop_rl.config.method_section import MethodSection, WhichDemonstrations
from coop_rl.config.sizes import has_scaffold, has_shadow
from coop_rl.types import (
    NOTHING_TRIED,
    CooperativeGain,
    Demonstration,
    Given,
    Guidance,
    Lesson,
    Objective,
    ScoredGroup,
    SecondTries,
    TokenSample,
)

S = TypeVar("S", bound=MethodSection)


@dataclass(frozen=True, slots=True)
class Needs:
    """Which data a step needs."""

    rollouts: bool
    demonstrations: WhichDemonstrations
    given: Given = field(default_factory=dict, hash=False)
    """What responses begin with, by prompt."""


@dataclass(frozen=True, slots=True)
class StepData:
    """The data of one meta-step, of which a method composes what is learned."""

    step: int
    """k."""
    groups: Sequence[ScoredGroup] = ()
    """Its rollouts, in prompt order; empty where none are needed."""
    demonstrations: Sequence[Demonstration] = ()
    """Its demonstrations; where they match prompts, `Demonstration.id` is the prompt's id, and
    prompts without one are missing."""
    guidance: Guidance | None = None
    """What the meta-controller says; None: there is none."""
    second: SecondTries = NOTHING_TRIED
    """Responses of pi(theta, w) to prompts that failed; empty where w is no scaffold."""

    def expert_of(self) -> dict[str, Demonstration]:
        """Return matching demonstrations by the id of their prompt."""
        return {demonstration.id: demonstration for demonstration in self.demonstrations}


class Method(Generic[S]):
    """A way of combining SFT and RL, whose section of the config is an S.

    Most methods only weigh the two losses and define `objective`; those that choose data override
    `needs` and `compose`; those that remember something override `observe_...` and the state.
    """

    def __init__(self, config: RunConfig) -> None:
        self.section = cast(S, config.method)  # `METHODS` chose the class by the section's kind
        self.max_tokens = config.rollout.max_tokens
        self.estimator = self.make_estimator()
        self.gain = GainSettings.from_config(config)
        self.gains = GainWindow(config.gain.window)
        self.uses_shadow = has_shadow(config)
        self.has_scaffold = has_scaffold(config)

    def make_estimator(self) -> RlEstimator:
        """Return what estimates the policy gradient: what `method.rl` chooses."""
        return build_estimator(self.section.rl_settings, self.max_tokens)

    @property
    def wants_fresh(self) -> bool:
        """Whether the shadow samples for itself at the next step."""
        return False

    @property
    def shadow_learns_own(self) -> bool:
        """Whether the shadow learns from what it samples itself."""
        return False

    def begin(self, num_demonstrations: int, state: Mapping[str, Any]) -> None:
        """Start, or go on from what `state` returned; called once, before the first step.

        Args:
            num_demonstrations: How many the data has.
            state: Empty at the start of a run.
        """
        if state:
            self.load_state(state)

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return the loss of a step, given what the meta-controller says (None: there is none)."""
        raise NotImplementedError

    def needs(self, step: int) -> Needs:
        """Return what a step needs: by default only what has a weight."""
        objective = self.objective(step)
        return Needs(
            rollouts=objective.rl_weight > 0 or self.uses_shadow,
            demonstrations=self.section.demonstrations if objective.sft_weight > 0 else "none",
        )

    def compose(self, data: StepData) -> Lesson:
        """Return what the learners are given: by default all of the data."""
        groups = splice(data.groups, data.second)
        samples = to_token_samples(groups, self.estimator.advantages)
        objective = self.objective(data.step, data.guidance)
        return Lesson(samples, data.demonstrations, objective, data.second.demonstrations)

    def shadow_age(self, step: int) -> int:
        """Return how many RL-only steps the shadow is away from a theta at step `step`."""
        return 1

    def observe_gain(self, gain: CooperativeGain | None) -> None:
        """Take note of a step's gain, before its checkpoint; None: it was not measured."""
        self.gains.add(gain)

    def observe_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of the evaluation after `step` steps; `metrics` is empty where none was due.

        Called after the checkpoint, and again by a run that resumes from it.
        """

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


def to_token_samples(
    groups: Sequence[ScoredGroup], advantages: Callable[[Sequence[ScoredGroup]], Advantages]
) -> list[TokenSample]:
    """Return N samples with their advantages, in order.

    Responses that nobody could score do not train and are no part of their group's baseline; of a
    group with fewer than two others none trains.

    Args:
        groups: The rollouts.
        advantages: Returns A_G of each group, in order.
    """
    scored = [group.valid() for group in groups]
    is_known = [v is g or len(v.rewards) > 1 for g, v in zip(groups, scored, strict=True)]
    known = iter(advantages([v for v, is_one in zip(scored, is_known, strict=True) if is_one]))
    samples: list[TokenSample] = []
    for group, has_baseline in zip(groups, is_known, strict=True):
        advantage_V = iter(next(known) if has_baseline else ())
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
            is_valid = has_baseline and reward.status == "scored"
            samples.append(
                TokenSample(
                    prompt_ids=group.prompt.context_ids,
                    response_ids=rollout.token_ids,
                    behaviour_log_probs=rollout.behaviour_log_probs,
                    advantage=float(next(advantage_V)) if is_valid else 0.0,
                    is_truncated=rollout.is_truncated,
                    is_valid=is_valid,
                )
            )
    return samples
