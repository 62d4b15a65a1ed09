"""What the loop asks of each role; `distributed` implements these on Ray, tests in plain Python.

Verbs, one each: generate, score, estimate, pack, step, measure, update, publish.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from coop_rl.types import (
    CooperativeGain,
    Demonstration,
    GuidanceUpdate,
    Objective,
    PackedBatch,
    PolicyVersion,
    ScoredGroup,
    StepResult,
)


class Rollouts(Protocol):
    """Rollout actors and reward workers behind one window of prompts."""

    def next_batch(self, step: int, version: PolicyVersion) -> Sequence[ScoredGroup]:
        """Return P groups, generated at `version` and scored, in prompt order."""
        ...


class Demonstrations(Protocol):
    """The demonstrations in seeded, resumable order."""

    def next_batch(self, step: int) -> Sequence[Demonstration]:
        """Return the demonstrations of a step."""
        ...


class Learners(Protocol):
    """The two learner groups, stepped at the same time."""

    def step(
        self, step: int, batch: PackedBatch, objective: Objective
    ) -> tuple[StepResult, StepResult | None]:
        """Take gradients on both branches, then update both; shadow is None where there is none.

        `joint` follows `objective`; `rl_only` follows RL alone, or restarts from theta where
        `objective.resync_shadow` says so.
        """
        ...


class MetaController(Protocol):
    """The keeper of w."""

    def update(
        self, joint: StepResult, shadow: StepResult | None, gain: CooperativeGain | None
    ) -> GuidanceUpdate | None:
        """Update w from the branches' gradients and push it to both groups; None without w."""
        ...


class Weights(Protocol):
    """Weight sync: merged theta + s*B*A of `joint` to the rollout actors."""

    def publish(self, version: PolicyVersion) -> PolicyVersion:
        """Send `version`, wait until every rollout actor serves it, and return it."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run starts: after nothing, or after a checkpoint."""

    next_step: int
    version: PolicyVersion


class Checkpoints(Protocol):
    """Complete or absent."""

    def restore(self) -> Progress:
        """Load what the run resumes from, if anything, into all roles."""
        ...

    def maybe_save(self, step: int, version: PolicyVersion) -> None:
        """Save after `step` when it is due."""
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
    """The version that generated this step's rollouts."""
    objective: Objective
    groups: Sequence[ScoredGroup]
    batch: PackedBatch
    joint: StepResult
    shadow: StepResult | None
    gain: CooperativeGain | None
    guidance: GuidanceUpdate | None


@dataclass(frozen=True, slots=True)
class Roles:
    """All roles of a run."""

    rollouts: Rollouts
    demonstrations: Demonstrations
    learners: Learners
    meta_controller: MetaController
    weights: Weights
    checkpoints: Checkpoints
    evaluation: Evaluation
    observer: Observer
