"""Sections that say which method runs: `method`, `adapter`, `shadow`, `gain`, `meta`."""

from typing import Annotated, Literal

from pydantic import Field

from coop_rl.config.base import Section


class KlSettings(Section):
    """The penalty beta * KL(pi || pi_ref); pi_ref is the frozen start, without adapter."""

    weight: float = Field(0.0, ge=0.0)
    """beta, in reward per nat where the RL loss is a token mean, which the KL always is; 0: no
    reference model is loaded."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """k1: the exact gradient of the response's KL, through reward-to-go; k2: token by token,
    lower variance, leaves out what a token does to later ones; k3: reported as k3, gradient of
    k2 (the gradient of k3 itself is that of another divergence)."""


class RlSettings(Section):
    """What all RL estimators share."""

    ratio_cap: float = Field(5.0, gt=1.0)
    """Upper limit of the bracket's sequence weight, and of that of `reweighted` and `rloo`:
    sg[min(weight, cap)]."""
    mismatch_cap: float | None = Field(2.0, gt=0.0)
    """Truncated importance sampling for engines that differ from learners: each token's term is
    multiplied by min(pi_old / pi_engine, cap); null: off; `reweighted` needs none."""
    kl: KlSettings = KlSettings()
    """Penalty for leaving the start."""
    entropy_weight: float = Field(0.0, ge=0.0)
    """Weight of the mean token entropy, added to what is maximised."""


class ReweightedRl(RlSettings):
    """Policy gradient with the whole response's importance weight: the bracket's own loss."""

    kind: Literal["reweighted"] = "reweighted"
    normalize_by_std: bool = True
    """Divide group-relative advantages by the group's standard deviation, as GRPO does."""


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
    """Lower end is 1 - clip_low."""
    clip_high: float = Field(0.28, gt=0.0)
    """Upper end is 1 + clip_high."""
    max_refills: int = Field(3, ge=0)
    """Prompts whose rewards are all equal are replaced by others, at most so many times
    prompts.per_step a step."""
    overlong_tokens: int | None = Field(None, ge=1)
    """Length before rollout.max_tokens over which the reward falls linearly by 1; null: off
    (paper: 4096 of 20480)."""


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
    """Lower end is 1 - clip_low (paper)."""
    clip_high: float = Field(4e-4, gt=0.0)
    """Upper end is 1 + clip_high (paper)."""


class CispoRl(RlSettings):
    """CISPO, arXiv 2506.13585: the ratio's clipped value weighs log pi, no token is dropped."""

    kind: Literal["cispo"] = "cispo"
    clip_low: float | None = Field(None, gt=0.0)
    """Lower end is 1 - clip_low; null: no lower end (paper)."""
    clip_high: float = Field(4.0, gt=0.0)
    """Upper end is 1 + clip_high; the paper tunes it and states no value."""


class PpoRl(RlSettings):
    """PPO-clip, arXiv 1707.06347, with group-relative advantages and a token mean."""

    kind: Literal["ppo"] = "ppo"
    clip: float = Field(0.2, gt=0.0)
    """Ratios count within 1 - clip ... 1 + clip."""
    dual_clip: float | None = Field(3.0, gt=1.0)
    """Limit of the loss for negative advantages, times |A| (arXiv 1912.09729); null: none."""


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


class BridgeMethod(Section):
    """Cooperative SFT and RL: docs/algorithm.md section 3, arXiv 2509.06948."""

    kind: Literal["bridge"] = "bridge"
    mix: float = Field(0.5, ge=0.0, le=1.0)
    """Share of RL in theta's step (the paper's lambda); 1 = RL only, 0 = SFT only."""
    mix_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """`linear` and `cosine` let lambda rise from 0 to 1 over run.num_steps instead."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class RlMethod(Section):
    """RL alone ("RL-zero"): theta follows RL; no demonstrations, no adapter, no shadow."""

    kind: Literal["rl"] = "rl"
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class SftMethod(Section):
    """SFT alone: theta follows the demonstrations; nothing is sampled for training."""

    kind: Literal["sft"] = "sft"


class SumMethod(Section):
    """Both losses in every step, L_RL + mu * L_SFT; no adapter, no shadow."""

    kind: Literal["sum"] = "sum"
    mu: float = Field(1.0, gt=0.0)
    """Weight of the SFT loss; the paper states none."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class AlternateMethod(Section):
    """A step of RL, a step of SFT, and so on; no adapter, no shadow."""

    kind: Literal["alternate"] = "alternate"
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT steps as a multiple of learner.lr."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


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


class ColdStartMethod(Section):
    """SFT until the validation NLL stops falling (or for so many epochs), then RL."""

    kind: Literal["cold_start"] = "cold_start"
    switch: Literal["validation", "epochs"] = "validation"
    """What ends the SFT phase."""
    epochs: int = Field(3, ge=1)
    """Epochs over the demonstrations after which RL starts at the latest (paper: 3)."""
    check_every: int = Field(10, ge=1)
    """Steps between measurements of the validation NLL."""
    patience: int = Field(1, ge=1)
    """Measurements without a new minimum after which RL starts."""
    min_improvement: float = Field(0.0, ge=0.0)
    """Nats a new minimum must be lower by; above 0 a flat curve ends the phase too."""
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT phase as a multiple of learner.lr."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""


class HptMethod(Section):
    """HPT, arXiv 2509.04419: prompts the policy fails are taught, the others reinforced."""

    kind: Literal["hpt"] = "hpt"
    gate: int = Field(0, ge=0)
    """A prompt with at most so many right responses is taught by its demonstration (paper: 0)."""
    coef: float = Field(1.0, gt=0.0)
    """Weight of the SFT loss (paper: 1, 0.3 for a 1.5B model)."""
    rl: AnyRl = DrGrpoRl()
    """The RL estimator."""


class LuffySettings(Section):
    """What the LUFFY family shares; losses of their own instead of an RL estimator."""

    entropy_weight: float = Field(1e-3, ge=0.0)
    """Weight of the entropy bonus (the authors' scripts: 0.001; LUFFY's paper: 0.01)."""


class LuffyMethod(LuffySettings):
    """LUFFY, arXiv 2504.14945: each group holds the prompt's expert trace, its gradient shaped."""

    kind: Literal["luffy"] = "luffy"


class SrftMethod(Section):
    """SRFT, arXiv 2506.19767: SFT and RL on demonstrations and rollouts, weighed by entropy."""

    kind: Literal["srft"] = "srft"
    sft_weight: float = Field(0.5, ge=0.0)
    """w_SFT is this times exp(-H) (paper: 0.5)."""
    right_weight: float = Field(0.1, ge=0.0)
    """Right rollouts weigh this times exp(H) (paper: 0.1); wrong ones weigh 1."""


class ReliftMethod(LuffySettings):
    """ReLIFT, arXiv 2506.07527: RL, and SFT on the prompts that no response solved."""

    kind: Literal["relift"] = "relift"
    buffer_size: int = Field(128, ge=1)
    """Demonstrations of failed prompts that make one SFT step (paper: 128)."""
    sft_lr_scale: float = Field(1.0, gt=0.0)
    """Rate of the SFT steps as a multiple of learner.lr."""


Method = Annotated[
    BridgeMethod
    | RlMethod
    | SftMethod
    | SumMethod
    | AlternateMethod
    | ChordMethod
    | ColdStartMethod
    | HptMethod
    | LuffyMethod
    | SrftMethod
    | ReliftMethod,
    Field(discriminator="kind"),
]


def rl_settings(method: Method) -> RlSettings:
    """Return what the method's RL estimator shares with others; defaults where it has its own."""
    match method:
        case SftMethod() | SrftMethod():
            return RlSettings()
        case LuffyMethod() | ReliftMethod():
            return RlSettings(entropy_weight=method.entropy_weight)
        case _:
            return method.rl


Schedule = Literal["constant", "linear", "cosine"]


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
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay of w."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which w's rate rises linearly to `lr`."""
    lr_schedule: Schedule = "constant"
    """How w's rate goes on to `lr_final * lr` at the run's end."""
    lr_final: float = Field(0.0, ge=0.0, le=1.0)
    """Share of `lr` at the end; `linear` and `cosine` only."""
    max_update_norm: float | None = Field(None, gt=0)
    """A longer change of w is scaled down to this norm; null: no limit."""
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
    """The branch `shadow`: theta-hat, which follows RL alone."""

    resync_every: int | None = Field(5, ge=1)
    """Every m steps theta-hat restarts from theta; null: the paper's persistent chain."""
    rollouts: Literal["shared", "own"] = "shared"
    """What theta-hat learns from: joint's rollouts, or its own (needs num_rollout_actors)."""
    num_rollout_actors: int = Field(0, ge=0)
    """Rollout actors that serve pi(theta-hat, w); 0: nothing is sampled from the shadow."""
    offload: bool = False
    """Keep theta-hat's moments in host memory but for its updates, as learner.offload does for
    both branches; learner.zero_stage 0 or 3 only."""


class GainSection(Section):
    """How the bracket and the cooperative gain are estimated (docs/algorithm.md section 4)."""

    estimator: Literal["auto", "reweighted", "fresh"] = "auto"
    """`reweighted`: from the shared rollouts; `fresh`: the shadow samples for itself; `auto`:
    reweighted while ESS >= min_ess; when it falls below, the w-update is skipped, and `fresh` is
    used from the next step on where shadow.num_rollout_actors allows, until ESS recovers."""
    min_ess: float = Field(0.5, ge=0.0, le=1.0)
    """Smallest effective sample size, as a fraction, at which the estimate counts."""
    audit_every: int = Field(0, ge=0)
    """Steps between measurements of G with fresh rollouts of both branches on held-out prompts;
    0: never; needs shadow.num_rollout_actors."""
    audit_prompts: int = Field(64, ge=2)
    """Held-out prompts of an audit, from the top, each with rollout.samples_per_prompt samples."""


class MetaSection(Section):
    """The meta-controller, which owns w."""

    guidance: tuple[Literal["adapter", "mix", "demonstrations"], ...] = ("adapter",)
    """What the meta-controller tunes: `adapter`, the paper's w; `mix`, lambda; `demonstrations`,
    a weight for every source of demonstrations (docs/algorithm.md section 5)."""
    w_objective: Literal["cooperative", "mixture", "sft", "frozen", "random"] = "cooperative"
    """What w follows: the method, or one of its controls (docs/algorithm.md section 5)."""
    penalty: float | None = Field(None, ge=0.0, le=1.0)
    """lambda_w of docs/algorithm.md section 3, step 6; null: the same as method.mix."""
    mix_lr: float = Field(0.02, gt=0)
    """Adam rate of lambda; about the change per step."""
    mix_min: float = Field(0.05, gt=0.0, lt=1.0)
    """Smallest lambda that `mix` guidance may choose."""
    mix_max: float = Field(0.95, gt=0.0, lt=1.0)
    """Largest lambda that `mix` guidance may choose."""
    demonstrations_lr: float = Field(0.1, gt=0)
    """Adam rate of the logits of the demonstrations' weights; about their change per step."""
    demonstrations_min: float = Field(0.01, gt=0.0, lt=0.5)
    """Smallest weight of a source, so that it can come back."""
    per_example: bool = False
    """Whether `demonstrations` guidance also weighs every demonstration by itself."""
