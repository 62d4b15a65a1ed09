"""`ServingConfig`: what it takes to sample and judge; `RunConfig`: one training run, whole.

Cross-section rules live in the single validator of `RunConfig`.
"""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from coop_rl.config.base import Section
from coop_rl.config.data import DemonstrationsSection, PromptsSection, RowSource
from coop_rl.config.evaluation import EvaluationSection
from coop_rl.config.method import (
    AdapterSection,
    BridgeMethod,
    DapoRl,
    GainSection,
    MetaSection,
    Method,
    ShadowSection,
    rl_settings,
)
from coop_rl.config.reward import RewardSection
from coop_rl.config.roles import LearnerSection, PlacementSection, RolloutSection, SyncSection
from coop_rl.config.rules import (
    check_colocated,
    check_engines,
    check_guidance,
    check_lag,
    check_profile,
    check_ranks,
)
from coop_rl.metric_names import VALIDATION_NLL, evaluation_name


class RunSection(Section):
    """Name, length and seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run directory `<dir>/<name>`."""
    dir: str = "runs"
    """Parent of the run directory."""
    num_steps: int = Field(ge=1)
    """Meta-steps k."""
    seed: int = Field(0, ge=0)
    """Seeds data order, sampling and w's start."""


class ModelSection(Section):
    """The base model."""

    path: str
    """A Hugging Face folder, or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the learners; master weights are always fp32."""
    max_length: int | None = Field(None, ge=2)
    """Context in tokens; null: the model's own."""


class CheckpointSection(Section):
    """What survives a crash."""

    every: int = Field(50, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    best: str | None = None
    """Metric of an evaluation, such as `eval/sums/pass@1`, whose best checkpoint is kept beside the
    newest (highest counts; of `.../nll` the lowest); null: none."""


class ObservabilitySection(Section):
    """What is written besides metrics.jsonl."""

    tensorboard: bool = True
    """Write events/ for TensorBoard."""
    samples_per_step: int = Field(2, ge=0)
    """Rollouts written to samples.jsonl at each step."""
    profile_steps: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """First and last step to record in profile/: a Perfetto trace, and where the seconds went."""


class ServingConfig(Section):
    """A model behind rollout actors and a reward actor; `coop-rl evaluate` needs no more."""

    model: ModelSection
    reward: RewardSection = RewardSection()
    rollout: RolloutSection = RolloutSection()
    sync: SyncSection = SyncSection()
    placement: PlacementSection = PlacementSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def max_evaluation_tokens(self) -> int:
        """Upper limit of an evaluation's response tokens."""
        return self.evaluation.max_tokens or self.rollout.max_tokens

    @property
    def sources(self) -> Sequence[RowSource]:
        """Every source of prompts."""
        return [self.evaluation.data] if self.evaluation.data else []

    @model_validator(mode="after")
    def _check_serving(self) -> Self:
        """Refuse rows judged by a function where the config names none, and ill-sized engines."""
        check_engines(self)
        for source in self.sources:
            if source.verifier == "python" and self.reward.kind != "python":
                raise ValueError(
                    f"verifier python of {source.origin} needs reward.function, which goes with "
                    f"reward.kind python, got {self.reward.kind}; choose another verifier"
                )
        return self


class RunConfig(ServingConfig):
    """One run; `config.json` in its directory is this, resolved, and valid input again."""

    run: RunSection
    adapter: AdapterSection = AdapterSection()
    method: Method = BridgeMethod()
    shadow: ShadowSection = ShadowSection()
    prompts: PromptsSection
    demonstrations: DemonstrationsSection
    learner: LearnerSection = LearnerSection()
    meta: MetaSection = MetaSection()
    gain: GainSection = GainSection()
    checkpoint: CheckpointSection = CheckpointSection()
    observability: ObservabilitySection = ObservabilitySection()

    @property
    def sources(self) -> Sequence[RowSource]:
        """Every source of prompts."""
        return [*super().sources, self.prompts, *self.prompts.mixture]

    @property
    def mix(self) -> float:
        """lambda of `bridge`: share of RL in theta's step, where neither schedule nor guidance
        says otherwise."""
        assert isinstance(self.method, BridgeMethod)
        return self.method.mix

    @property
    def penalty(self) -> float:
        """lambda_w: weight of the bracket in w's step."""
        return self.mix if self.meta.penalty is None else self.meta.penalty

    @model_validator(mode="after")
    def _check_across_sections(self) -> Self:
        if self.method.kind != "sft" and self.rollout.samples_per_prompt < 2:
            raise ValueError(
                "rollout.samples_per_prompt must be >= 2 for a group-relative baseline, got "
                f"{self.rollout.samples_per_prompt}"
            )
        if self.learner.num_minibatches > self.prompts.per_step:
            raise ValueError(
                f"learner.num_minibatches must be at most prompts.per_step "
                f"{self.prompts.per_step}, got {self.learner.num_minibatches}; prompts stay whole"
            )
        if not self.evaluation.set_names:
            raise ValueError(
                "evaluation needs data (held-out prompts) or benchmarks to measure anything, got "
                "neither; add one to the config"
            )
        self._check_best()
        self._check_overlong()
        check_guidance(self)
        check_lag(self)
        check_colocated(self)
        check_ranks(self)
        check_profile(self)
        if self.learner.zero_stage == 1 and self.model.dtype == "bfloat16":
            raise ValueError(
                "model.dtype bfloat16 needs fp32 masters, which learner.zero_stage 1 does not keep "
                "here; set learner.zero_stage 0, 2 or 3, or model.dtype float32"
            )
        return self

    def _check_best(self) -> None:
        """Refuse to wait for a metric that no evaluation measures."""
        section = self.evaluation
        known = {evaluation_name(n, f) for n in section.set_names for f in section.figures}
        known.add(VALIDATION_NLL)
        if self.checkpoint.best is not None and self.checkpoint.best not in known:
            raise ValueError(
                f"checkpoint.best {self.checkpoint.best} is no metric of the evaluation; "
                f"allowed: {', '.join(sorted(known))}"
            )

    def _check_overlong(self) -> None:
        """Refuse to punish every response for its length."""
        rl, limit = rl_settings(self.method), self.rollout.max_tokens
        if isinstance(rl, DapoRl) and rl.overlong_tokens is not None and rl.overlong_tokens > limit:
            raise ValueError(
                f"method.rl.overlong_tokens must be at most rollout.max_tokens {limit}, "
                f"got {rl.overlong_tokens}"
            )
