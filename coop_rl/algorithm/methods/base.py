"""What the loop asks of a method: what a step needs, and what is learned from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coop_rl.algorithm.estimators.base import RlEstimator
from coop_rl.algorithm.gain import GainSettings
from coop_rl.types import (
    CooperativeGain,
    Demonstration,
    Guidance,
    Lesson,
    Objective,
    ScoredGroup,
    TokenSample,
)


@dataclass(frozen=True, slots=True)
class Needs:
    """The data of a step."""

    rollouts: bool
    demonstrations: Literal["none", "next", "matching"]
    """`next`: the step's own, in seeded order; `matching`: those of the step's prompts, where the
    data has them."""


__all__ = ["Lesson", "Method", "Needs", "to_token_samples"]


class Method:
    """A way of combining SFT and RL.

    Most methods only weigh the two losses and define `objective`; those that choose data override
    `needs` and `compose`; those that remember something override `observe` and the state.
    """

    uses_shadow = False
    """Whether the branch `shadow` exists."""
    gain = GainSettings()

    def __init__(self, estimator: RlEstimator) -> None:
        self.estimator = estimator

    @property
    def wants_fresh(self) -> bool:
        """Whether the shadow samples for itself at the next step."""
        return False

    @property
    def shadow_learns_own(self) -> bool:
        """Whether it learns from what it samples."""
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
            demonstrations="next" if objective.sft_weight > 0 else "none",
        )

    def compose(
        self,
        step: int,
        groups: Sequence[ScoredGroup],
        demonstrations: Sequence[Demonstration],
        guidance: Guidance | None,
    ) -> Lesson:
        """Return what the learners are given.

        Args:
            step: k.
            groups: The step's groups, in prompt order; empty where none are needed.
            demonstrations: The step's; where they match prompts, `Demonstration.id` is the
                prompt's id, and prompts without one are missing.
            guidance: What the meta-controller says.
        """
        samples = to_token_samples(groups, self.estimator)
        return Lesson(samples, demonstrations, self.objective(step, guidance))

    def observe(
        self, step: int, gain: CooperativeGain | None, evaluated: Mapping[str, float]
    ) -> None:
        """Take note of what was measured.

        Called with the gain after step `step` - 1, before its checkpoint; and with the evaluation
        after `step` steps (empty where none was due), after the checkpoint and after a resume.
        """

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


def to_token_samples(groups: Sequence[ScoredGroup], estimator: RlEstimator) -> list[TokenSample]:
    """Return N samples with their advantages, group by group in order."""
    return [
        TokenSample(
            prompt_ids=group.prompt.token_ids,
            response_ids=rollout.token_ids,
            behaviour_log_probs=rollout.behaviour_log_probs,
            advantage=float(advantage),
        )
        for group, advantage_G in zip(groups, estimator.advantages(groups), strict=True)
        for rollout, advantage in zip(group.rollouts, advantage_G, strict=True)
    ]
