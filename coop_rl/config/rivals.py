"""Sections `method` of the rivals, one class each; what they do is in `algorithm.methods`."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from coop_rl.config.estimators import (
    AnyRl,
    DapoRl,
    DrGrpoRl,
    GrpoRl,
    ReweightedRl,
    RlSettings,
)
from coop_rl.config.method_section import EstimatorMethod, MethodSection


class RlMethod(EstimatorMethod):
    """RL alone ("RL-zero"): theta follows RL; no demonstrations, no adapter, no shadow."""

    demonstrations = "none"

    kind: Literal["rl"] = "rl"
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class SftMethod(MethodSection):
    """SFT alone: theta follows the demonstrations; nothing is sampled for training."""

    samples = False

    kind: Literal["sft"] = "sft"


class SumMethod(EstimatorMethod):
    """Both losses in every step, L_RL + mu * L_SFT; no adapter, no shadow."""

    kind: Literal["sum"] = "sum"
    mu: float = Field(1.0, gt=0.0)
    """Weight of the SFT loss; the paper states none."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class AlternateMethod(EstimatorMethod):
    """A step of RL, a step of SFT, and so on; no adapter, no shadow."""

    skips_rollouts = True

    kind: Literal["alternate"] = "alternate"
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT steps as a multiple of learner.lr."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class ChordMethod(EstimatorMethod):
    """CHORD, arXiv 2508.11408: (1 - mu) L_RL + mu L_SFT with a fading mu; no adapter, no shadow."""

    kind: Literal["chord"] = "chord"
    phi: bool = False
    """Whether every demonstration token is weighed with sg[p(1-p)]."""
    mu_peak: float | None = Field(None, ge=0.0, le=1.0)
    """mu at the end of the warm-up; null takes the paper's value, 0.9, or 0.1 with phi."""
    mu_valley: float | None = Field(None, ge=0.0, le=1.0)
    """mu from the end of the decay on; null takes the paper's value, 0.05, or 0.1 with phi."""
    mu_warmup_steps: int = Field(0, ge=0)
    """Steps over which mu rises linearly from 0."""
    mu_decay_steps: int = Field(200, ge=1)
    """Steps over which mu falls from peak to valley along a cosine."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""

    @property
    def peak(self) -> float:
        """Return mu_peak, resolved."""
        return (0.1 if self.phi else 0.9) if self.mu_peak is None else self.mu_peak

    @property
    def valley(self) -> float:
        """Return mu_valley, resolved."""
        return (0.1 if self.phi else 0.05) if self.mu_valley is None else self.mu_valley


class ColdStartMethod(EstimatorMethod):
    """SFT until the validation NLL stops falling (or for so many epochs), then RL.

    SFT then RL as two trainings in a row, each tuned by itself: switch epochs, an sft_lr, a
    schedule and fresh_optimizer.
    """

    kind: Literal["cold_start"] = "cold_start"
    switch: Literal["validation", "epochs"] = "validation"
    """What ends the SFT phase."""
    epochs: int = Field(3, ge=1)
    """RL starts after so many epochs over the demonstrations at the latest (paper: 3)."""
    check_every: int = Field(10, ge=1)
    """Steps between two measurements of the validation NLL."""
    patience: int = Field(1, ge=1)
    """RL starts after so many measurements in a row without a new minimum."""
    min_improvement: float = Field(0.0, ge=0.0)
    """Nats by which a new minimum must be lower than the one before; above 0, a flat curve ends the
    SFT phase too."""
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT phase as a multiple of learner.lr, along the run's own schedule; counts where
    sft_lr is null."""
    sft_lr: float | None = Field(None, gt=0.0)
    """Rate of the SFT phase; null: sft_lr_scale times learner's."""
    sft_lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How sft_lr falls to sft_lr_final * sft_lr over the SFT phase, taken as all its epochs."""
    sft_lr_final: float = Field(0.0, ge=0.0, le=1.0)
    """Share of sft_lr that is left at the end of the epochs; `linear` and `cosine` only."""
    sft_warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly to sft_lr."""
    fresh_optimizer: bool = False
    """Whether RL starts as a training of its own: AdamW's moments at zero, and learner's warm-up
    and schedule over the steps that are left. The moments of SFT are kept beside them."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""

    @model_validator(mode="after")
    def _check_rate(self) -> Self:
        """Refuse two rates of the SFT phase, and a schedule of none."""
        if self.sft_lr is not None and self.sft_lr_scale != 1.0:
            raise ValueError(
                f"sft_lr {self.sft_lr:g} and sft_lr_scale {self.sft_lr_scale:g} both set the rate "
                "of the SFT phase; give one"
            )
        for name in ("sft_lr_schedule", "sft_lr_final", "sft_warmup_steps"):
            given, default = self.__dict__[name], type(self).model_fields[name].default
            if self.sft_lr is None and given != default:
                raise ValueError(f"{name} {given} is about sft_lr, which is null; set sft_lr")
        return self

    def num_validation_rows(self, num_demonstrations: int) -> int:
        """Return a tenth of the demonstrations, at most 64: the switch is found on them."""
        return min(64, num_demonstrations // 10)

    def needs_validation(self, step: int) -> bool:
        """Return whether the curve that ends the SFT phase gets its next point."""
        return step % self.check_every == 0


class HptMethod(EstimatorMethod):
    """HPT, arXiv 2509.04419: prompts the policy fails are taught, the others reinforced."""

    demonstrations = "matching"

    kind: Literal["hpt"] = "hpt"
    gate: int = Field(0, ge=0)
    """A prompt with at most so many right responses is taught by its demonstration (paper: 0)."""
    coef: float = Field(1.0, gt=0.0)
    """Weight of the SFT loss (paper: 1, 0.3 for a 1.5B model)."""
    rl: AnyRl = DrGrpoRl(entropy_weight=1e-3)
    """The RL estimator; its entropy bonus is that of the authors' scripts, 0.001."""


class LuffySettings(MethodSection):
    """What the LUFFY family shares: no estimator of `method.rl`, but losses of their own."""

    demonstrations = "matching"

    entropy_weight: float = Field(1e-3, ge=0.0)
    """Weight of the entropy bonus (the authors' scripts: 0.001; LUFFY's paper: 0.01)."""

    @property
    def rl_settings(self) -> RlSettings:
        """The defaults, and the entropy bonus."""
        return RlSettings(entropy_weight=self.entropy_weight)


class LuffyMethod(LuffySettings):
    """LUFFY, arXiv 2504.14945: each group holds the prompt's expert trace, its gradient shaped."""

    kind: Literal["luffy"] = "luffy"


class SrftMethod(MethodSection):
    """SRFT, arXiv 2506.19767: SFT and RL on demonstrations and rollouts, weighed by entropy."""

    demonstrations = "matching"

    kind: Literal["srft"] = "srft"
    sft_weight: float = Field(0.5, ge=0.0)
    """The SFT loss weighs this times exp(-H), with the policy's entropy H there (paper: 0.5)."""
    right_weight: float = Field(0.1, ge=0.0)
    """Right rollouts weigh this times exp(H), with the policy's entropy H there (paper: 0.1); wrong
    ones weigh 1."""


class ReliftMethod(LuffySettings):
    """ReLIFT, arXiv 2506.07527: RL, and SFT on the prompts that no response solved."""

    skips_rollouts = True

    kind: Literal["relift"] = "relift"
    buffer_size: int = Field(128, ge=1)
    """Demonstrations of failed prompts that make one SFT step (paper: 128)."""
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT steps as a multiple of learner.lr."""


class PrefixMethod(EstimatorMethod):
    """POPE, QuestA (arXiv 2601.18779, 2507.13266): RL, where responses to prompts that were failed
    begin with a part of a demonstration the next time they come up."""

    demonstrations = "matching"
    needs_repeats = True

    kind: Literal["prefix"] = "prefix"
    share: float = Field(0.5, gt=0.0, lt=1.0)
    """Share of a demonstration's tokens that is given, at first (QuestA: 0.5; POPE: up to 0.25)."""
    anneal_steps: int | None = Field(None, ge=1)
    """Steps over which the share falls linearly to 0; null: run.num_steps."""
    rl: AnyRl = GrpoRl()
    """The RL estimator."""

    @model_validator(mode="after")
    def _check_estimator(self) -> Self:
        """Refuse an estimator that has failed groups replaced before the method sees them."""
        if isinstance(self.rl, DapoRl):
            raise ValueError(
                "rl.kind dapo replaces the groups that all failed, which prefix has to see; "
                "choose another, such as grpo"
            )
        return self


class LspoMethod(EstimatorMethod):
    """LSPO, arXiv 2607.27787: prompts that all failed are tried again with an adapter that is
    fitted to their demonstrations, anew at every step; theta alone is trained and published."""

    demonstrations = "matching"

    kind: Literal["lspo"] = "lspo"
    share: float = Field(0.5, gt=0.0, lt=1.0)
    """Share of a failed prompt's responses that are tried again; the right ones are kept."""
    fit_steps: int = Field(4, ge=1)
    """AdamW steps that the adapter is fitted in, at the rate adapter.lr."""
    rl: AnyRl = GrpoRl()
    """The RL estimator."""


class SelfDistilMethod(MethodSection):
    """SDFT, arXiv 2601.19897: the policy that sees the prompt's demonstration is the teacher of the
    policy that does not, on the latter's own responses."""

    demonstrations = "matching"

    kind: Literal["self_distil"] = "self_distil"
    template: str = (
        "{prompt}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
        "Now answer with a response of your own, including the thinking process."
    )
    """The question put to the teacher, where `{prompt}` stands for the row's and `{demonstration}`
    for its response (the default: the authors'); prompts.question_template and template follow."""

    @property
    def teacher_template(self) -> str:
        """The template."""
        return self.template

    @field_validator("template")
    @classmethod
    def _check_places(cls, template: str) -> str:
        """Refuse a template that leaves one of the two out."""
        for place in ("{prompt}", "{demonstration}"):
            if place not in template:
                raise ValueError(f"must contain {place}, got {template!r}")
        return template
