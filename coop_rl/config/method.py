"""Sections that say which method runs: `method`, `adapter`, `shadow`, `gain`, `meta`."""

from typing import Annotated, Literal

from pydantic import Field

from coop_rl.config.base import Section


class RlSettings(Section):
    """The RL estimator, the same for both branches."""

    normalize_by_std: bool = True
    """Divide group-relative advantages by the group's standard deviation (GRPO); false: Dr.GRPO."""
    ratio_cap: float = Field(5.0, gt=1.0)
    """Upper limit of the sequence-level importance weight, applied as sg[min(weight, cap)]."""


class BridgeMethod(Section):
    """Cooperative SFT and RL: docs/algorithm.md section 3, arXiv 2509.06948."""

    kind: Literal["bridge"] = "bridge"
    mix: float = Field(0.5, ge=0.0, le=1.0)
    """Share of RL in theta's step (the paper's lambda); 1 = RL only, 0 = SFT only."""
    rl: RlSettings = RlSettings()
    """Settings of the RL estimator."""


class RlMethod(Section):
    """RL alone ("RL-zero"): theta follows RL; no demonstrations, no adapter, no shadow."""

    kind: Literal["rl"] = "rl"
    rl: RlSettings = RlSettings()
    """Settings of the RL estimator."""


class SftMethod(Section):
    """SFT alone: theta follows the demonstrations; nothing is sampled for training."""

    kind: Literal["sft"] = "sft"


class SumMethod(Section):
    """Both losses in every step, L_RL + mu * L_SFT; no adapter, no shadow."""

    kind: Literal["sum"] = "sum"
    mu: float = Field(1.0, gt=0.0)
    """Weight of the SFT loss; the paper states none."""
    rl: RlSettings = RlSettings()
    """Settings of the RL estimator."""


class AlternateMethod(Section):
    """A step of RL, a step of SFT, and so on; no adapter, no shadow."""

    kind: Literal["alternate"] = "alternate"
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT steps as a multiple of learner.lr."""
    rl: RlSettings = RlSettings()
    """Settings of the RL estimator."""


class ChordMethod(Section):
    """CHORD, arXiv 2508.11408: (1 - mu) L_RL + mu L_SFT with a fading mu; no adapter, no shadow."""

    kind: Literal["chord"] = "chord"
    phi: bool = False
    """Weigh every demonstration token with sg[p(1-p)]."""
    mu_peak: float | None = Field(None, ge=0.0, le=1.0)
    """mu after the warm-up; null: 0.9, with phi 0.1 (paper)."""
    mu_valley: float | None = Field(None, ge=0.0, le=1.0)
    """mu after the decay; null: 0.05, with phi 0.1 (paper)."""
    mu_warmup_steps: int = Field(0, ge=0)
    """Steps over which mu rises linearly from 0."""
    mu_decay_steps: int = Field(200, ge=1)
    """Steps over which mu falls along a cosine."""
    rl: RlSettings = RlSettings()
    """Settings of the RL estimator."""

    @property
    def peak(self) -> float:
        """Return mu_peak, resolved."""
        return (0.1 if self.phi else 0.9) if self.mu_peak is None else self.mu_peak

    @property
    def valley(self) -> float:
        """Return mu_valley, resolved."""
        return (0.1 if self.phi else 0.05) if self.mu_valley is None else self.mu_valley


Method = Annotated[
    BridgeMethod | RlMethod | SftMethod | SumMethod | AlternateMethod | ChordMethod,
    Field(discriminator="kind"),
]


class AdapterSection(Section):
    """The guidance parameters w: LoRA factors A, B on the linear layers, scale alpha / rank."""

    rank: int = Field(16, ge=1)
    """LoRA rank R (paper: 16)."""
    alpha: float = Field(16.0, gt=0)
    """LoRA alpha (paper: 16)."""
    lr: float = Field(1e-5, ge=0)
    """w's own rate; the paper does not state one, 10-20x theta's is the default here."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas of w's optimiser."""
    max_grad_norm: float = Field(1.0, gt=0)
    """w's gradient is scaled down to this norm when longer."""
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Last name component of the linear layers that get an adapter."""


class ShadowSection(Section):
    """The shadow theta-hat, branch `rl_only`."""

    resync_every: int | None = Field(5, ge=1)
    """Every m steps theta-hat restarts from theta; null: the paper's persistent chain."""


class GainSection(Section):
    """How the bracket and the cooperative gain are estimated (docs/algorithm.md section 4)."""

    estimator: Literal["auto", "reweighted"] = "auto"
    """`reweighted`: always; `auto`: while ESS >= min_ess, otherwise the w-update is skipped."""
    min_ess: float = Field(0.5, ge=0.0, le=1.0)
    """Smallest effective sample size, as a fraction, at which the estimate counts."""


class MetaSection(Section):
    """The meta-controller, which owns w."""

    guidance: tuple[Literal["adapter"], ...] = ("adapter",)
    """Kinds of guidance parameters; `adapter` is the paper's LoRA w."""
    w_objective: Literal["cooperative", "mixture", "sft", "frozen", "random"] = "cooperative"
    """What w follows: the method, or one of its controls (docs/algorithm.md section 5)."""
    penalty: float | None = Field(None, ge=0.0, le=1.0)
    """lambda_w of docs/algorithm.md section 3, step 6; null: the same as method.mix."""
