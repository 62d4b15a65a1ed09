"""`ServingConfig`: what it takes to sample and judge; `RunConfig`: one training run, whole.

Sections are defined in their own modules; what has to hold between them lies in `rules`
and `placement_rules`.
"""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import model_validator

from coop_rl.config import placement_rules, rules
from coop_rl.config.base import Section
from coop_rl.config.data import DemonstrationsSection, PromptsSection, RowSource
from coop_rl.config.defaults import weigh_named_sources
from coop_rl.config.evaluation import EvaluationSection
from coop_rl.config.method import (
    AdapterSection,
    BridgeMethod,
    GainSection,
    MetaSection,
    Method,
    ShadowSection,
)
from coop_rl.config.recovery import RecoverySection
from coop_rl.config.reward import RewardSection
from coop_rl.config.roles import LearnerSection, PlacementSection, RolloutSection, SyncSection
from coop_rl.config.run import CheckpointSection, ModelSection, ObservabilitySection, RunSection


class ServingConfig(Section):
    """A model behind rollout actors and a reward actor; `coop-rl evaluate` needs no more."""

    model: ModelSection
    reward: RewardSection = RewardSection()
    rollout: RolloutSection = RolloutSection()
    sync: SyncSection = SyncSection()
    placement: PlacementSection = PlacementSection()
    recovery: RecoverySection = RecoverySection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def max_evaluation_tokens(self) -> int:
        """Upper limit of an evaluation's response tokens."""
        return self.evaluation.max_tokens or self.rollout.max_tokens

    @property
    def sources(self) -> Sequence[RowSource]:
        """Every source of prompts."""
        return [held_out.source for held_out in self.evaluation.held_out]

    @model_validator(mode="after")
    def _check_serving(self) -> Self:
        placement_rules.check_engines(self.rollout, self.placement)
        rules.check_verifiers(self.sources, self.reward)
        return self


class RunConfig(ServingConfig):
    """One run; `config.json` in its directory is this, resolved, and valid input again."""

    run: RunSection
    adapter: AdapterSection = AdapterSection()
    method: Method = BridgeMethod()
    shadow: ShadowSection = ShadowSection()
    prompts: PromptsSection = PromptsSection()
    demonstrations: DemonstrationsSection = DemonstrationsSection()
    learner: LearnerSection = LearnerSection()
    meta: MetaSection = MetaSection()
    gain: GainSection = GainSection()
    checkpoint: CheckpointSection = CheckpointSection()
    observability: ObservabilitySection = ObservabilitySection()

    @property
    def sources(self) -> Sequence[RowSource]:
        """Every source of prompts."""
        return [*super().sources, self.prompts, *self.prompts.mixture]

    @model_validator(mode="before")
    @classmethod
    def _weigh_named_sources(cls, values: Any) -> Any:
        return weigh_named_sources(values)

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        rules.check_sources(self.prompts, self.demonstrations, self.method, self.evaluation)
        rules.check_group_size(self.rollout, self.method)
        rules.check_minibatches(self.learner, self.prompts, self.demonstrations, self.method)
        rules.check_evaluation_sets(self.evaluation)
        rules.check_best(self.checkpoint, self.evaluation)
        rules.check_background(self.evaluation, self.checkpoint, self.placement)
        rules.check_overlong(self.method, self.rollout)
        rules.check_masked(self.method, self.rollout)
        if isinstance(self.method, BridgeMethod):
            rules.check_guidance(self.meta)
            rules.check_gradients_of_w(self.meta, self.method)
            rules.check_cold_start(self.run, self.meta, self.method)
            rules.check_lookahead(self.meta, self.method, self.learner, self.model)
            rules.check_shadow(
                self.shadow, self.gain, self.learner, self.meta, self.method.rl_settings
            )
        rules.check_scaffold(self.method, self.meta, self.rollout, self.reward, self.placement)
        rules.check_split(self.demonstrations, self.meta, self.method)
        rules.check_lag(self.rollout, self.method)
        placement_rules.check_colocated(self.placement, self.rollout, self.sync)
        placement_rules.check_elastic(self.rollout, self.placement)
        placement_rules.check_ranks(self.placement, self.learner)
        rules.check_profile(self.observability, self.run)
        rules.check_masters(self.model, self.learner)
        return self
