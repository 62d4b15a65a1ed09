"""From a packed batch to the next version of theta, theta-hat and w.

Learners make StepResult and AdapterGradients; `algorithm.gain` makes CooperativeGain; the
meta-controller makes GuidanceUpdate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from coop_rl.types.batch import Demonstration, TokenSample
from coop_rl.types.rollout import ScoredGroup
from coop_rl.types.version import Branch, PolicyVersion

if TYPE_CHECKING:
    import torch


class SkipReason(StrEnum):
    """Why w did not move at a step."""

    NONE = ""
    LOW_ESS = "low_ess"
    ROUNDED = "rounded"
    NON_FINITE = "non_finite"
    FROZEN = "frozen"
    NOTHING_FAILED = "nothing_failed"


DemonstrationLoss = Literal["nll", "phi", "shaped"]
"""nll: -log p; phi: -sg[p(1-p)] log p (CHORD); shaped: -p/(p + 0.1), with weights that are
advantages (LUFFY). See `algorithm.losses`."""


@dataclass(frozen=True, slots=True)
class DemonstrationTerm:
    """One term of the SFT loss."""

    loss: DemonstrationLoss = "nll"
    share: float = 1.0
    """Its factor inside the SFT loss."""
    source: str = ""
    """The source it is about; empty: all."""
    is_entropy_scaled: bool = False
    """Whether `share` is multiplied by sg[exp(-H)], H the policy's mean entropy there (SRFT)."""
    is_weighted: bool = True
    """Whether `Demonstration.weight` counts in it."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss of one branch at one meta-step: rl_weight * L_RL + sft_weight * sum of terms."""

    rl_weight: float
    """lambda of docs/algorithm.md section 3, step 4 for `joint`; 1 for `shadow`."""
    sft_weight: float
    """1 - lambda for `joint`; 0 for `shadow`."""
    terms: tuple[DemonstrationTerm, ...] = (DemonstrationTerm(),)
    """What the SFT loss is made of."""
    sft_entropy_weight: float = 0.0
    """Weight of the entropy bonus over demonstration tokens, apart from `sft_weight`."""
    resync_shadow: bool = False
    """Whether theta-hat restarts from theta after this step's gradients."""
    lr_scale: float = 1.0
    """Factor on the learner's rate at this step."""
    lr: float | None = None
    """The step's rate itself; None: the learner's, times `lr_scale`."""
    has_second_optimizer: bool = False
    """Whether the step uses theta's second optimiser state (ReLIFT's SFT steps, RL after a cold
    start with `fresh_optimizer`)."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources its terms are about, each once; "" stands for all."""
        return tuple(dict.fromkeys(term.source for term in self.terms))

    def over(self, present: Collection[str]) -> Objective:
        """Return the loss of a step that has these sources only: their shares keep the sum of all.

        So the SFT loss weighs `sft_weight` whichever sources a step happens to hold.
        """
        shares = {term.source: term.share for term in self.terms if term.source}
        held = [share for source, share in shares.items() if source in present]
        if len(held) == len(shares) or not held:
            return self
        scale = math.fsum(shares.values()) / math.fsum(held)
        terms = (replace(t, share=t.share * scale) if t.source else t for t in self.terms)
        return replace(self, terms=tuple(terms))


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a method chooses out of a step's data, and the loss it makes of that."""

    samples: Sequence[TokenSample]
    """Rollouts, group by group."""
    demonstrations: Sequence[Demonstration]
    objective: Objective
    scaffold: Sequence[Demonstration] = ()
    """What w is fitted to, theta's gradient dropped; empty where w is no scaffold."""


@dataclass(frozen=True, slots=True)
class SecondTries:
    """What pi(theta, w) made of prompts that theta alone had failed (`algorithm.scaffold`)."""

    demonstrations: Sequence[Demonstration] = ()
    """Of these prompts, under their ids."""
    groups: Sequence[ScoredGroup] = ()
    """The responses to them, in the same order."""


NOTHING_TRIED = SecondTries()


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the meta-controller tells the next step besides w."""

    mix: float
    """lambda of the next step."""
    source_weights: tuple[tuple[str, float], ...] = ()
    """(source, v) with v summing to 1; empty where sources are not weighed."""
    example_weights: tuple[tuple[str, float], ...] = ()
    """(demonstration id, weight); mean 1 over equal ids; those not listed weigh 1."""


@dataclass(frozen=True, slots=True)
class AdapterGradients:
    """Gradients of the *losses* (descent direction) with respect to w, unweighted by lambda."""

    branch: Branch
    version: PolicyVersion
    rl: dict[str, torch.Tensor]
    """name -> fp32 gradient of L_RL; empty when the branch did not compute it."""
    sft: dict[str, torch.Tensor]
    """name -> fp32 gradient of L_SFT; empty for `shadow`."""
    bracket: dict[str, torch.Tensor] = field(default_factory=dict)
    """name -> h_w^RL(theta) - h_w^RL(theta-hat), where the shadow takes it by itself because
    rounding hides small differences; empty else, and `rl` is empty then."""


@dataclass(frozen=True, slots=True)
class StepMeans:
    """Losses and means over tokens of one meta-step; nan where a quantity was not computed.

    Of several optimiser steps, the mean over those that computed it.
    """

    rl_loss: float
    sft_loss: float
    """Mean negative log-likelihood of demonstration tokens, nats."""
    entropy: float
    """Mean entropy of the policy at the sampled tokens, nats."""
    mismatch_kl: float
    """Mean of log pi_b - log pi over sampled tokens (k1 estimate of KL(pi_b || pi)), nats."""
    kl_ref: float
    """Mean over sampled tokens of the KL estimate named by the config, nats; nan without one."""
    clip_fraction: float
    """Share of tokens (GSPO: responses) whose ratio was clipped."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How well theta-hat is told apart from theta by the numbers the model computes with."""

    amplification: float = 1.0
    """c: how many times as far from theta as theta-hat the weights were; 1: as far."""
    differing: float = 1.0
    """Share of the weights that differ after rounding, of those whose fp32 masters do; 1 where
    nothing is rounded."""


@dataclass(frozen=True, slots=True)
class SampleSums:
    """Sums over the tokens of each of the N samples, as the first optimiser step finds them."""

    log_ratio_N: tuple[float, ...]
    """Sum of log pi_branch - log pi_b of each sample, nats; uncapped; empty without rollouts."""
    kl_N: tuple[float, ...]
    """Sum of log pi_branch - log pi_ref of each sample that the bracket is measured on, nats; empty
    without a reference."""
    is_relative: bool = False
    """Whether they are the shadow's less joint's, because rounding hides small differences."""
    resolution: Resolution = Resolution()
    """Of the weights they were computed with."""

    def of_groups(self, kept: Sequence[int], size: int) -> SampleSums:
        """Return the sums of some groups' samples, of `size` samples each."""

        def of(value_N: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(v for g in kept for v in value_N[g * size : (g + 1) * size])

        return replace(self, log_ratio_N=of(self.log_ratio_N), kl_N=of(self.kl_N))


@dataclass(frozen=True, slots=True)
class GradientParts:
    """The unweighted RL and SFT parts of theta's gradient; nan where they were not measured."""

    rl_norm: float = math.nan
    sft_norm: float = math.nan
    cosine: float = math.nan
    """Cosine of the angle between the two."""


@dataclass(frozen=True, slots=True)
class Updates:
    """The optimiser steps of one meta-step."""

    num_taken: int
    """How many, those included that were skipped."""
    grad_norm: float
    """Norm of the fused theta-gradient before clipping; of several steps the mean."""
    is_applied: bool
    """False when a non-finite gradient made every rank skip one."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a meta-step computed, all ranks together; prompts are included, padding is not."""

    num_parameters: int
    """Values of theta."""
    forward_tokens: int
    """Tokens in forward passes without a backward pass."""
    backward_tokens: int
    """Tokens in forward-and-backward passes."""
    device: str = ""
    """Full name of the first rank's GPU; empty: it is a CPU."""


@dataclass(frozen=True, slots=True)
class LookaheadProducts:
    """What the previous update did for this batch's return (`algorithm.lookahead`).

    Empty where guidance does not follow it, and at the first step.
    """

    components: tuple[tuple[str, float], ...] = ()
    """(component of that update's gradient, d J_RL(theta_k) / d its weight); a component is `rl` or
    a source of demonstrations."""
    examples: tuple[tuple[str, float], ...] = ()
    """The same for that update's single demonstrations, by id."""
    scale: float = 1.0
    """Their natural size, |grad J_RL| |u|, with |u| the root mean square of how far each component
    moves theta; so `components` over it are about cosines. 0: the batch says nothing."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one branch reports of one meta-step, over all its ranks."""

    branch: Branch
    version: PolicyVersion
    """Version the gradients were taken at, before the update."""
    means: StepMeans
    samples: SampleSums
    parts: GradientParts
    updates: Updates
    work: Work
    lookahead: LookaheadProducts = LookaheadProducts()
    one_step_shadow: SampleSums | None = None
    """The samples under the RL-only step beside joint's last one; None where it was not measured
    (`learner.one_step_shadow`)."""
    adapter_gradients: AdapterGradients | None = field(default=None, compare=False)
    """None without an adapter. Between actors it may be a reference that stands for them, which
    the actor it is given to opens."""


@dataclass(frozen=True, slots=True)
class DemonstrationFit:
    """How well a policy predicts demonstrations it does not train on; means over tokens."""

    nll: float
    """Negative log-likelihood, nats."""
    token_accuracy: float
    """Share of the tokens that are the policy's likeliest, given those before."""


@dataclass(frozen=True, slots=True)
class CooperativeGain:
    """Estimate of J_RL(theta, w) - J_RL(theta-hat, w) in units of reward (see `algorithm.gain`)."""

    estimator: Literal["reweighted", "fresh"]
    """How it was estimated."""
    value: float | None
    """reward_gap - beta * kl_gap; None where the effective sample size is too low to tell."""
    stderr: float | None
    """Standard error over prompts."""
    reward_gap: float | None
    """Mean reward of theta minus that of theta-hat."""
    kl_gap: float | None
    """The same of the sequence's KL to the reference, nats; None without one."""
    ess: float
    """Effective sample size of the shadow's uncapped sequence weights, as a fraction of N; this and
    the next but one are nan where the shadow learns from rollouts of its own."""
    ess_joint: float
    """The same for the joint branch; below 1 only by engine mismatch or policy lag."""
    capped_share: float
    """Share of the shadow's sequence weights above the cap."""
    shadow_kl: float
    """Mean over samples of log pi_joint - log pi_shadow of the whole response, nats."""
    shadow_age: int
    """RL-only steps that theta-hat is away from a theta; 0: they are the same."""
    resolution: Resolution
    """How well the two were told apart."""
    is_usable: bool
    """Whether the bracket may move w (ESS >= gain.min_ess on both branches)."""
    is_resolved: bool
    """Whether rounding leaves a difference to measure; False: the bracket must not move w."""


@dataclass(frozen=True, slots=True)
class PooledGain:
    """Mean of the gain over the last steps that measured it."""

    value: float
    stderr: float
    """Standard error of that mean."""
    num_steps: int
    """Steps in it."""
    shadow_age: float
    """Mean of their shadows' ages."""


@dataclass(frozen=True, slots=True)
class GuidanceUpdate:
    """What the meta-controller did with w at one step."""

    version: PolicyVersion
    """Version after the update; the adapter count advances even when skipped."""
    skipped: SkipReason
    """Why w did not move; empty when it did."""
    adapter_norm: float
    """Frobenius norm of all of s*B*A's factors stacked, after the update."""
    update_norm: float
    """Norm of the change of w."""
    bracket_norm: float
    """Norm of g_w^RL - g-hat_w^RL."""
    bracket_cosine: float
    """Cosine of the bracket with g_w^SFT; nan where either is zero."""
    sft_grad_norm: float
    """Norm of g_w^SFT."""
    guidance: Guidance
    """What the next step follows."""
