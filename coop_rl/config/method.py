"""Sections that say which method runs: `method`, `adapter`, `shadow`, `gain`, `meta`."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from coop_rl.config.base import Section
from coop_rl.config.estimators import AnyRl, DrGrpoRl, ReweightedRl, RlSettings
from coop_rl.config.optimizer import OptimizerSection

WhichDemonstrations = Literal["none", "next", "matching"]
"""Which demonstrations a method learns from: none; the step's own, in seeded order; or those of the
prompts that the step samples, where the data has them."""


class MethodSection(Section):
    """What the rest of the program asks of a method; a section states only what differs."""

    samples: ClassVar[bool] = True
    """Whether it learns from rollouts."""
    demonstrations: ClassVar[WhichDemonstrations] = "next"
    """Which demonstrations it learns from."""
    skips_rollouts: ClassVar[bool] = False
    """Whether steps without rollouts come between those with them, so that nothing may be sampled
    ahead: it would be too old when it is used."""
    is_guided: ClassVar[bool] = False
    """Whether a meta-controller guides it: only then do `meta`, `adapter`, `shadow` and `gain`
    count."""

    @property
    def rl_settings(self) -> RlSettings:
        """What all RL losses share; defaults where the method has no section `rl`."""
        return ReweightedRl()

    def num_validation_rows(self, num_demonstrations: int) -> int:  # noqa: ARG002
        """Return how many demonstrations are kept for validation where the config does not say."""
        return 0

    def needs_validation(self, step: int) -> bool:  # noqa: ARG002
        """Return whether the method itself needs the validation NLL after `step` steps."""
        return False


class EstimatorMethod(MethodSection):
    """A method whose RL loss is an estimator's, which its field `rl` chooses."""

    if TYPE_CHECKING:  # a field of every subclass, each with a place and a default of its own
        rl: AnyRl

    @property
    def rl_settings(self) -> RlSettings:
        """The section of the estimator."""
        return self.rl


class BridgeMethod(EstimatorMethod):
    """Cooperative SFT and RL: docs/algorithm.md section 3, arXiv 2509.06948."""

    is_guided = True

    kind: Literal["bridge"] = "bridge"
    mix: float = Field(0.5, ge=0.0, le=1.0)
    """Share of RL in theta's step (the paper's lambda); 1 = RL only, 0 = SFT only."""
    mix_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How lambda runs: `constant` stays at `mix`; `linear` and `cosine` rise from 0 to 1 over
    run.num_steps."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""

    def penalty(self, meta: "MetaSection") -> float:
        """Return lambda_w, the weight of the bracket in w's step."""
        return self.mix if meta.penalty is None else meta.penalty


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
    """SFT until the validation NLL stops falling (or for so many epochs), then RL."""

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
    """Rate of the SFT phase as a multiple of learner.lr."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""

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


class AdapterSection(OptimizerSection):
    """The adapter w: LoRA factors A, B on the linear layers, scaled by alpha / rank."""

    rank: int = Field(16, ge=1)
    """LoRA rank R (paper: 16)."""
    alpha: float = Field(16.0, gt=0)
    """LoRA alpha (paper: 16)."""
    lr: float = Field(1e-5, ge=0)
    """w's own rate; the paper does not state one, 10-20x theta's is the default here."""
    max_update_norm: float | None = Field(None, gt=0)
    """A longer change of w is scaled down to this norm; null: no limit."""
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
    """theta-hat restarts from theta every so many steps (m); null: never, as in the paper."""
    rollouts: Literal["shared", "own"] = "shared"
    """What theta-hat learns from: joint's rollouts, or its own (needs num_rollout_actors)."""
    num_rollout_actors: int = Field(0, ge=0)
    """How many rollout actors serve pi(theta-hat, w); 0: nothing is sampled from the shadow."""
    offload: bool = False
    """Whether theta-hat's moments are in host memory except during its updates, as learner.offload
    has it for both branches; needs learner.zero_stage 0 or 3."""


class GainSection(Section):
    """How the bracket and the cooperative gain are estimated (docs/algorithm.md section 4)."""

    estimator: Literal["auto", "reweighted", "fresh"] = "auto"
    """`reweighted`: from the shared rollouts; `fresh`: the shadow samples for itself; `auto`:
    reweighted while the effective sample size is at least min_ess; when it falls below, w is not
    updated, and from the next step on the estimate is fresh, where shadow.num_rollout_actors allows
    it, until the size recovers."""
    min_ess: float = Field(0.5, ge=0.0, le=1.0)
    """Smallest effective sample size, as a fraction of N, at which the estimate counts."""
    audit_every: int = Field(0, ge=0)
    """Steps between two measurements of the gain with fresh rollouts of both branches on held-out
    prompts; 0: it is never measured so; needs shadow.num_rollout_actors."""
    audit_prompts: int = Field(64, ge=2)
    """How many held-out prompts an audit takes, from the top, each with rollout.samples_per_prompt
    samples."""


class MetaSection(Section):
    """The meta-controller, which owns w."""

    guidance: tuple[Literal["adapter", "mix", "demonstrations"], ...] = ("adapter",)
    """What the meta-controller tunes: `adapter`, the paper's w; `mix`, lambda; `demonstrations`,
    a weight for every source of demonstrations (docs/algorithm.md section 5)."""
    w_objective: Literal["cooperative", "mixture", "sft", "frozen", "random"] = "cooperative"
    """What w follows: the method, or one of its controls (docs/algorithm.md section 5)."""
    penalty: float | None = Field(None, ge=0.0, le=1.0)
    """The bracket's share in w's step, lambda_w of docs/algorithm.md section 3, step 6; null: the
    same as method.mix."""
    mix_lr: float = Field(0.05, gt=0)
    """Adam's rate for lambda: about how much it changes in a step."""
    mix_min: float = Field(0.05, gt=0.0, lt=1.0)
    """Smallest lambda that `mix` guidance may choose; a lower method.mix starts there."""
    mix_max: float = Field(0.95, gt=0.0, lt=1.0)
    """Largest lambda that `mix` guidance may choose; a higher method.mix starts there."""
    demonstrations_lr: float = Field(0.1, gt=0)
    """Adam's rate for the logits of the demonstrations' weights: about how much they change in a
    step."""
    demonstrations_min: float = Field(0.01, gt=0.0, lt=0.5)
    """Smallest weight of a source: above 0, so that its weight can rise again."""
    lookahead: Literal["measured", "placebo"] = "measured"
    """What `mix` and `demonstrations` guidance follow: the measured products, or their control, the
    same products dealt at random over components and the last steps."""
    per_example: bool = False
    """Whether `demonstrations` guidance also weighs every demonstration by itself."""
