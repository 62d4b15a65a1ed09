"""`RunConfig`: one run, whole; cross-section rules live in its single validator."""

from typing import Literal, Self

from pydantic import Field, model_validator

from coop_rl.config.base import Section
from coop_rl.config.method import (
    AdapterSection,
    BridgeMethod,
    GainSection,
    MetaSection,
    Method,
    ShadowSection,
)
from coop_rl.config.roles import LearnerSection, PlacementSection, RolloutSection, SyncSection


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


class DataFile(Section):
    """A JSONL file and how its rows become tokens."""

    path: str
    """One JSON object a line."""
    prompt_column: str = "prompt"
    """Column with the question."""
    answer_column: str = "answer"
    """Column with the gold answer."""
    template: str | None = "{prompt}"
    """Prompt text, with `{prompt}` in it; null: the model's chat template."""


class PromptsSection(DataFile):
    """D_RL: prompts with a verifiable answer."""

    per_step: int = Field(32, ge=1)
    """P, prompts per meta-step."""


class DemonstrationsSection(DataFile):
    """D_SFT: prompts with reasoning and answer."""

    reasoning_column: str = "reasoning"
    """Column with the reasoning r."""
    response_template: str = "{reasoning}\n#{answer}"
    """Response text, with `{reasoning}` and `{answer}` in it."""
    per_step: int = Field(32, ge=1)
    """Demonstrations per meta-step."""


class RewardSection(Section):
    """The verifier, run in a pool of processes."""

    kind: Literal["exact"] = "exact"
    """`exact`: the text after the last marker equals the gold answer."""
    marker: str = Field("#", min_length=1)
    """What precedes the final answer in a response."""
    num_workers: int = Field(1, ge=1)
    """Processes."""
    time_limit_s: float = Field(5.0, gt=0)
    """Hard limit for one response; its process is killed after it."""
    shuffle: bool = False
    """Control experiment: hand each prompt's rewards to another prompt, so RL learns nothing."""


class EvaluationSection(Section):
    """Held-out accuracy before, during and after training."""

    name: str = "held_out"
    """Appears in metric names: eval/<name>/pass@1."""
    data: DataFile
    """Held-out prompts."""
    num_items: int = Field(256, ge=1)
    """Rows used, from the top of the file."""
    num_samples: int = Field(4, ge=1)
    """k of avg@k, sampled at `temperature`."""
    temperature: float = Field(1.0, gt=0)
    """Of the sampled evaluation; pass@1 is greedy."""
    every: int = Field(0, ge=0)
    """Steps between evaluations; 0: only before and after."""


class CheckpointSection(Section):
    """What survives a crash."""

    every: int = Field(50, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""


class ObservabilitySection(Section):
    """What is written besides metrics.jsonl."""

    tensorboard: bool = True
    """Write events/ for TensorBoard."""
    samples_per_step: int = Field(2, ge=0)
    """Rollouts written to samples.jsonl at each step."""


class RunConfig(Section):
    """One run; `config.json` in its directory is this, resolved, and valid input again."""

    run: RunSection
    model: ModelSection
    adapter: AdapterSection = AdapterSection()
    method: Method = BridgeMethod()
    shadow: ShadowSection = ShadowSection()
    prompts: PromptsSection
    demonstrations: DemonstrationsSection
    reward: RewardSection = RewardSection()
    rollout: RolloutSection = RolloutSection()
    learner: LearnerSection = LearnerSection()
    meta: MetaSection = MetaSection()
    gain: GainSection = GainSection()
    sync: SyncSection = SyncSection()
    placement: PlacementSection = PlacementSection()
    evaluation: EvaluationSection
    checkpoint: CheckpointSection = CheckpointSection()
    observability: ObservabilitySection = ObservabilitySection()

    @property
    def mix(self) -> float:
        """lambda: share of RL in theta's step."""
        if isinstance(self.method, BridgeMethod):
            return self.method.mix
        return 1.0 if self.method.kind == "rl" else 0.0

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
        if self.method.kind == "bridge" and self.meta.w_objective != "frozen":
            self._check_adapter_gradients_exist()
        if self.learner.zero_stage < 2 and self.model.dtype == "bfloat16":
            raise ValueError(
                f"model.dtype bfloat16 needs fp32 masters, which learner.zero_stage "
                f"{self.learner.zero_stage} does not keep here; set learner.zero_stage 2 or 3, "
                "or model.dtype float32"
            )
        return self

    def _check_adapter_gradients_exist(self) -> None:
        """Refuse a w-update from a gradient that theta's mix never computes."""
        needs_rl = self.penalty > 0 and self.meta.w_objective != "sft"
        needs_sft = self.penalty < 1 or self.meta.w_objective == "sft"
        for share, needed, name in ((self.mix, needs_rl, "RL"), (1 - self.mix, needs_sft, "SFT")):
            if needed and share == 0:
                raise ValueError(
                    f"method.mix {self.mix} computes no {name} gradient, but w needs it with "
                    f"meta.w_objective {self.meta.w_objective} and meta.penalty {self.penalty}; "
                    "set meta.w_objective frozen, or change method.mix or meta.penalty"
                )
