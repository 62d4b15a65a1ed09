"""Sections that say which method runs: `method`, `adapter`, `shadow`, `gain`, `meta`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from coop_rl.config.base import Section
from coop_rl.config.estimators import AnyRl, ReweightedRl
from coop_rl.config.method_section import EstimatorMethod
from coop_rl.config.optimizer import OptimizerSection
from coop_rl.config.rivals import (
    AlternateMethod,
    ChordMethod,
    ColdStartMethod,
    HptMethod,
    LspoMethod,
    LuffyMethod,
    PrefixMethod,
    ReliftMethod,
    RlMethod,
    SelfDistilMethod,
    SftMethod,
    SrftMethod,
    SumMethod,
)

LLAMA_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder of the Llama kind."""
OUTPUT_LAYER = "lm_head"


class BridgeMethod(EstimatorMethod):
    """Cooperative SFT and RL: docs/algorithm.md section 3, arXiv 2509.06948."""

    is_guided = True

    kind: Literal["bridge"] = "bridge"
    mix: float = Field(0.5, ge=0.0, le=1.0)
    """Share of RL in theta's step (the paper's lambda); 1 = RL only, 0 = SFT only."""
    mix_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How lambda runs: `constant` stays at `mix`; `linear` and `cosine` rise from 0 to 1 over
    run.num_steps, less cold_start_steps."""
    cold_start_steps: int = Field(0, ge=0)
    """Steps of SFT alone before cooperation starts: lambda is 0 and nothing is sampled."""
    rl: AnyRl = ReweightedRl()
    """The RL estimator."""

    def penalty(self, meta: "MetaSection") -> float:
        """Return lambda_w, the weight of the bracket in w's step."""
        return self.mix if meta.penalty is None else meta.penalty


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
    | ReliftMethod
    | PrefixMethod
    | SelfDistilMethod
    | LspoMethod,
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
    targets: tuple[str, ...] = Field(LLAMA_LAYERS, min_length=1)
    """Last name component of the linear layers that get an adapter; not lm_head."""

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse the output layer, which many models share with the embedding."""
        if OUTPUT_LAYER in targets:
            raise ValueError(f"must not name {OUTPUT_LAYER}; allowed are layers of the decoder")
        return targets


class ShadowSection(Section):
    """The branch `shadow`: theta-hat, which follows RL alone. It runs where `adapter` guidance has
    meta.w_objective cooperative or random."""

    resync_every: int | None = Field(5, ge=1)
    """theta-hat restarts from theta every so many steps (m); null: never, as in the paper."""
    optimizer_state: Literal["own", "copy"] = "own"
    """Which AdamW moments theta-hat goes on with after a re-sync: `own`, those of its RL gradients;
    or a `copy` of theta's, which hold the momentum of SFT."""
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
    every: int = Field(5, ge=0)
    """Steps between two measurements where no branch `shadow` runs beside (docs/algorithm.md
    section 4); with one every step measures; 0: it is not measured without one."""
    window: int = Field(20, ge=1)
    """Measurements that `gain/pooled` is the mean of: one step's gain is mostly noise."""
    audit_every: int = Field(0, ge=0)
    """Steps between two measurements of the gain with fresh rollouts of both branches on held-out
    prompts; 0: it is never measured so; needs shadow.num_rollout_actors."""
    audit_prompts: int = Field(64, ge=2)
    """How many held-out prompts an audit takes, from the top, each with rollout.samples_per_prompt
    samples."""


class MetaSection(Section):
    """The meta-controller, which owns w."""

    guidance: tuple[Literal["adapter", "mix", "demonstrations", "scaffold"], ...] = ("adapter",)
    """What the meta-controller tunes: `adapter`, the paper's w; `mix`, lambda; `demonstrations`,
    a weight for every source of demonstrations; `scaffold`, a w that is no part of the policy but
    lets it sample right responses to prompts that failed (docs/algorithm.md section 5). Where
    nothing is set and the demonstrations have sources (`mixture`, `source_column`, `split_by`) it
    is `demonstrations`, unless the learner takes several updates a batch."""
    w_objective: Literal["cooperative", "mixture", "sft", "frozen", "random"] = "mixture"
    """What w follows: the gradient of SFT and RL together, `mixture`, at one branch's cost and as
    good at equal steps (ADR 18); `cooperative`, the paper's, whose bracket needs the branch
    `shadow`; or a control (docs/algorithm.md section 5)."""

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
    scaffold_share: float = Field(0.5, gt=0.0, lt=1.0)
    """Share of a failed prompt's responses that are sampled again with the scaffold."""
    per_example: bool = False
    """Whether `demonstrations` guidance also weighs every demonstration by itself."""

    @property
    def needs_shadow(self) -> bool:
        """Whether w follows a bracket, so that the run has the branch `shadow`."""
        return "adapter" in self.guidance and self.w_objective in ("cooperative", "random")
