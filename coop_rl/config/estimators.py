"""Sections of the RL estimators, `method.rl`: one class each, beside what all of them share."""

from typing import Annotated, Literal

from pydantic import Field

from coop_rl.config.base import Section


class KlSettings(Section):
    """The penalty beta * KL(pi || pi_ref); pi_ref is the frozen start, without adapter."""

    weight: float = Field(0.0, ge=0.0)
    """beta, in reward per nat where the RL loss is a mean over tokens, as the KL always is; 0: no
    penalty, and no reference model is loaded."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """k1: the exact gradient of the response's KL, through reward-to-go; k2: token by token, with
    less variance, without what a token does to later ones; k3: reported as k3, with the gradient of
    k2 (that of k3 itself belongs to another divergence)."""


class RlSettings(Section):
    """What all RL estimators share."""

    ratio_cap: float = Field(5.0, gt=1.0)
    """Upper limit of the importance weight of a whole response, in the bracket and in the losses
    `reweighted` and `rloo`: sg[min(weight, cap)]."""
    mismatch_cap: float | None = Field(2.0, gt=0.0)
    """Truncated importance sampling for engines that differ from learners: each token's term is
    multiplied by min(pi_old / pi_engine, cap); null: off; `reweighted` needs none."""
    kl: KlSettings = KlSettings()
    """The penalty for moving away from the start."""
    entropy_weight: float = Field(0.0, ge=0.0)
    """Weight of the policy's mean token entropy, a bonus in what is maximised."""

    @property
    def selects_groups(self) -> bool:
        """Whether groups are kept for the rewards that they happened to get."""
        return False


class ReweightedRl(RlSettings):
    """Policy gradient with the whole response's importance weight: the bracket's own loss."""

    kind: Literal["reweighted"] = "reweighted"
    normalize_by_std: bool = True
    """Whether advantages are divided by the group's standard deviation, as GRPO does."""


class GrpoRl(RlSettings):
    """GRPO, arXiv 2402.03300: clipped ratios, mean over each response, then over responses."""

    kind: Literal["grpo"] = "grpo"
    clip: float = Field(0.2, gt=0.0)
    """Ratios count within 1 - clip ... 1 + clip."""


class DrGrpoRl(RlSettings):
    """Dr. GRPO, arXiv 2503.20783: no division by standard deviation or response length."""

    kind: Literal["dr_grpo"] = "dr_grpo"
    clip: float = Field(0.2, gt=0.0)
    """Ratios count within 1 - clip ... 1 + clip."""


class DapoRl(RlSettings):
    """DAPO, arXiv 2503.14476: clip-higher, token mean, dynamic sampling, overlong shaping."""

    kind: Literal["dapo"] = "dapo"
    clip_low: float = Field(0.2, gt=0.0)
    """Ratios count from 1 - clip_low on."""
    clip_high: float = Field(0.28, gt=0.0)
    """Ratios count up to 1 + clip_high."""
    max_refills: int = Field(3, ge=0)
    """Prompts whose rewards are all equal are replaced by others, at most so many times
    prompts.per_step a step."""
    overlong_tokens: int | None = Field(None, ge=1)
    """The last tokens before rollout.max_tokens, over which the reward falls linearly by 1 (paper:
    4096 of 20480); null: length costs nothing."""

    @property
    def selects_groups(self) -> bool:
        """Whether dynamic sampling is on."""
        return self.max_refills > 0


class RlooRl(RlSettings):
    """RLOO, arXiv 2402.14740: the baseline is the mean reward of the group's other responses."""

    kind: Literal["rloo"] = "rloo"


class ReinforcePlusPlusRl(RlSettings):
    """REINFORCE++, arXiv 2501.03262: advantages normalised over the whole batch, clipped ratios."""

    kind: Literal["reinforce_pp"] = "reinforce_pp"
    baseline: Literal["batch", "group"] = "batch"
    """Subtracted before normalising: the batch's mean, or the group's (REINFORCE++-baseline)."""
    clip: float = Field(0.2, gt=0.0)
    """Ratios count within 1 - clip ... 1 + clip."""


class GspoRl(RlSettings):
    """GSPO, arXiv 2507.18071: one clipped, length-normalised ratio a response."""

    kind: Literal["gspo"] = "gspo"
    clip_low: float = Field(3e-4, gt=0.0)
    """Ratios count from 1 - clip_low on (the paper's value)."""
    clip_high: float = Field(4e-4, gt=0.0)
    """Ratios count up to 1 + clip_high (the paper's value)."""


class CispoRl(RlSettings):
    """CISPO, arXiv 2506.13585: the ratio's clipped value weighs log pi, no token is dropped."""

    kind: Literal["cispo"] = "cispo"
    clip_low: float | None = Field(None, gt=0.0)
    """The smallest weight is 1 - clip_low; null: there is no smallest, as in the paper."""
    clip_high: float = Field(4.0, gt=0.0)
    """The largest weight is 1 + clip_high; the paper tunes it and states no value."""


class PpoRl(RlSettings):
    """PPO-clip, arXiv 1707.06347, with group-relative advantages and a token mean."""

    kind: Literal["ppo"] = "ppo"
    clip: float = Field(0.2, gt=0.0)
    """Ratios count within 1 - clip ... 1 + clip."""
    dual_clip: float | None = Field(3.0, gt=1.0)
    """A token's loss is at most dual_clip * |A| where the advantage A is negative (arXiv
    1912.09729); null: there is no such limit."""


AnyRl = Annotated[
    ReweightedRl
    | GrpoRl
    | DrGrpoRl
    | DapoRl
    | RlooRl
    | ReinforcePlusPlusRl
    | GspoRl
    | CispoRl
    | PpoRl,
    Field(discriminator="kind"),
]
