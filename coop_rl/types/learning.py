"""From a packed batch to the next version of theta, theta-hat and w.

Learners make StepResult and AdapterGradients; `algorithm.gain` makes CooperativeGain; the
meta-controller makes GuidanceUpdate.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

from coop_rl.types.version import Branch, PolicyVersion

SkipReason = Literal["", "low_ess", "non_finite", "frozen"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the loss terms of one optimiser step of one branch."""

    rl_weight: float
    """lambda of docs/algorithm.md section 3, step 4 for `joint`; 1 for `rl_only`."""
    sft_weight: float
    """1 - lambda for `joint`; 0 for `rl_only`."""
    resync_shadow: bool = False
    """Whether theta-hat restarts from theta after this step's gradients."""
    lr_scale: float = 1.0
    """Factor on the learner's rate at this step."""
    is_phi_weighted: bool = False
    """Whether SFT tokens weigh sg[p(1-p)] each (CHORD-phi)."""


@dataclass(frozen=True, slots=True)
class AdapterGradients:
    """Gradients of the *losses* (descent direction) with respect to w, unweighted by lambda."""

    branch: Branch
    version: PolicyVersion
    rl: dict[str, torch.Tensor]
    """name -> fp32 gradient of L_RL; empty when the branch did not compute it."""
    sft: dict[str, torch.Tensor]
    """name -> fp32 gradient of L_SFT; empty for `rl_only`."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one branch reports of one step; scalars and per-sample arrays, summed over its ranks."""

    branch: Branch
    version: PolicyVersion
    """Version the gradients were taken at (before the update)."""
    rl_loss: float
    sft_loss: float
    """Mean negative log-likelihood of demonstration tokens, nats; nan when not computed."""
    entropy: float
    """Mean entropy of the policy at the sampled tokens, nats."""
    mismatch_kl: float
    """Mean of log pi_b - log pi over sampled tokens (k1 estimate of KL(pi_b || pi)), nats."""
    log_ratio_N: tuple[float, ...]
    """Per sample: sum over tokens of log pi_branch - log pi_b; nats; uncapped."""
    grad_norm: float
    """Norm of the fused theta-gradient before clipping."""
    rl_grad_norm: float
    """Norm of the unweighted RL part; nan when not measured at this step."""
    sft_grad_norm: float
    grad_cosine: float
    """Cosine between the RL and the SFT part; nan when not measured."""
    is_step_applied: bool
    """False when a non-finite gradient made every rank skip the update."""
    duration_s: float
    adapter_gradients: object = field(default=None, compare=False)
    """AdapterGradients, or the runtime's unopened handle to them; None without an adapter."""


@dataclass(frozen=True, slots=True)
class CooperativeGain:
    """Estimate of J_RL(theta, w) - J_RL(theta-hat, w) in units of reward (see `algorithm.gain`)."""

    value: float | None
    """None where the effective sample size is too low to say anything."""
    stderr: float | None
    """Standard error over prompts."""
    ess: float
    """Effective sample size of the shadow's uncapped sequence weights, as a fraction of N."""
    ess_joint: float
    """The same for the joint branch; below 1 only by engine mismatch or policy lag."""
    capped_share: float
    """Share of the shadow's sequence weights above the cap."""
    shadow_kl: float
    """Mean over samples of log pi_joint - log pi_rl_only of the whole response, nats."""
    is_usable: bool
    """Whether the bracket may move w (ESS >= gain.min_ess on both branches)."""


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
