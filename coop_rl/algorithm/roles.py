"""What the loop asks of each role; `driver` implements these over actors, tests in plain Python.

Verbs, one each: generate, score, estimate, pack, step, measure, update, publish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from coop_rl.config.method_section import WhichDemonstrations
from coop_rl.types import (
    NOTHING_TRIED,
    BranchBatch,
    CooperativeGain,
    Demonstration,
    Given,
    Guidance,
    GuidanceUpdate,
    Objective,
    PolicyVersion,
    PooledGain,
    Sampled,
    ScoredGroup,
    SecondTries,
    SourceBatch,
    StepResult,
    TokenSample,
)


class Rollouts(Protocol):
    """Rollout actors and reward workers behind one window of prompts."""

    def next_batch(self, step: int, version: PolicyVersion, given: Given) -> Sampled:
        """Return P scored groups, sampled at `version` or up to the lag before, in prompt order.

        Groups the estimator learns nothing from may be replaced (dynamic sampling). Responses to
        the prompts in `given` that are sampled from now on begin with what it gives them.
        """
        ...

    def begin(self, state: Mapping[str, Any]) -> None:
        """Start, or go on from what `state` returned; called once, before the first step."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what was begun and not trained: JSON, but for `groups` (`driver.kept_groups`)."""
        ...


class ShadowRollouts(Protocol):
    """Rollout actors that serve the shadow."""

    def next_batch(self, step: int, groups: Sequence[ScoredGroup]) -> Sequence[ScoredGroup]:
        """Return groups sampled from pi(theta-hat, w) on the prompts of `groups`."""
        ...


class ScaffoldRollouts(Protocol):
    """The rollout actors once more, while they serve pi(theta, w) instead of pi(theta)."""

    def next_batch(
        self,
        step: int,
        version: PolicyVersion,
        failed: Sequence[ScoredGroup],
        shown: SourceBatch,
    ) -> Sequence[ScoredGroup]:
        """Return second tries at the prompts of `failed`, in order (`algorithm.scaffold`).

        Args:
            step: k.
            version: What the learners are at.
            failed: Groups whose prompts are tried again.
            shown: Their demonstrations, to which w is fitted first where the method says so.
        """
        ...


class Demonstrations(Protocol):
    """The demonstrations in seeded, resumable order."""

    num_rows: int
    """Demonstrations the data has."""

    def next_batch(
        self,
        step: int,
        which: WhichDemonstrations,
        groups: Sequence[ScoredGroup],
    ) -> Sequence[Demonstration]:
        """Return the demonstrations of a step.

        Args:
            step: k.
            which: None, the step's own, or those of the prompts of `groups`.
            groups: The step's rollouts; empty where there are none.
        """
        ...


class Learners(Protocol):
    """The two learner groups, stepped at the same time."""

    def step(
        self, step: int, batches: tuple[BranchBatch, BranchBatch], objective: Objective
    ) -> tuple[StepResult, StepResult | None]:
        """Take gradients on both branches, then update both; shadow is None where there is none.

        Args:
            step: k.
            batches: What `joint` and what `shadow` trains on.
            objective: The loss of `joint`; `shadow` follows RL alone, or restarts from theta where
                `objective.resync_shadow` says so.
        """
        ...


class MetaController(Protocol):
    """The keeper of w."""

    def update(
        self, joint: StepResult, shadow: StepResult | None, gain: CooperativeGain | None
    ) -> GuidanceUpdate | None:
        """Update guidance from the branches' gradients, and push w; None without guidance."""
        ...

    def guidance(self) -> Guidance | None:
        """Return what the next step follows besides w; None without guidance."""
        ...


class Weights(Protocol):
    """Weight sync: merged theta + s*B*A of `joint` to the rollout actors."""

    def publish(self, version: PolicyVersion, *, is_read: bool) -> PolicyVersion:
        """Let every rollout actor serve `version`, and return it.

        Args:
            version: What the learners are at.
            is_read: Whether the next step samples; else the weights are sent once somebody does.
        """
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run starts: after nothing, or after a checkpoint."""

    next_step: int
    version: PolicyVersion
    method: Mapping[str, Any] = field(default_factory=dict)
    """What `Method.state` returned; empty: nothing yet."""
    rollouts: Mapping[str, Any] = field(default_factory=dict)
    """What `Rollouts.state` returned; empty: nothing yet."""


class Checkpoints(Protocol):
    """Complete or absent."""

    def restore(self) -> Progress:
        """Load what the run resumes from, if anything, into all roles."""
        ...

    def maybe_save(
        self,
        step: int,
        version: PolicyVersion,
        method: Mapping[str, Any],
        rollouts: Mapping[str, Any],
    ) -> None:
        """Save after `step` when it is due, with the method's and the rollouts' state."""
        ...

    def keep_best(self, step: int, evaluated: Mapping[str, float]) -> None:
        """Keep the state after `step` steps where its validation is the best so far."""
        ...


class Evaluation(Protocol):
    """Held-out accuracy through the rollout actors."""

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Evaluate after `step` steps when due; return metrics, empty when not due."""
        ...


class Observer(Protocol):
    """Metrics, samples, progress."""

    def record(self, record: "StepRecord") -> None:
        """Write one step's row."""
        ...

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write evaluation figures measured after `step` steps (0: the base model)."""
        ...


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Everything one meta-step produced, for the observer."""

    step: int
    version: PolicyVersion
    """The version of the weights the step starts from; its rollouts may be older by the lag."""
    objective: Objective
    sampled: Sampled
    fresh: Sequence[ScoredGroup]
    """The shadow's own rollouts; empty where it shares joint's."""
    batch: BranchBatch
    """What `joint` trained on."""
    joint: StepResult
    shadow: StepResult | None
    gain: CooperativeGain | None
    pooled: PooledGain | None
    """Over the last steps that measured it."""
    update: GuidanceUpdate | None
    second: SecondTries = NOTHING_TRIED
    """What the scaffold made of failed prompts; empty where w is none."""
    samples: Sequence[TokenSample] = ()
    """The rollouts in `batch`, with their advantages."""


@dataclass(frozen=True, slots=True)
class Roles:
    """All roles of a run."""

    rollouts: Rollouts
    shadow_rollouts: ShadowRollouts
    scaffold_rollouts: ScaffoldRollouts
    demonstrations: Demonstrations
    learners: Learners
    meta_controller: MetaController
    weights: Weights
    checkpoints: Checkpoints
    evaluation: Evaluation
    observer: Observer
