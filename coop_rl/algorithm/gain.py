r"""The cooperative gain G = J_RL(theta, w) - J_RL(theta-hat, w), docs/algorithm.md section 4.

`reweighted`, from the joint branch's rollouts, with rho_i = exp(l_i) the uncapped sequence weight
of sample i under a branch (`losses`) and K_i its sum of log pi_branch - log pi_ref:

    reward gap_p = mean_i ( rho_theta,i - rho_theta-hat,i ) * ( R_i - mean_{j != i} R_j )
    kl gap_p     = mean_i ( rho_theta,i K_theta,i - rho_theta-hat,i K_theta-hat,i )
    G = mean_p ( reward gap_p - beta kl gap_p )         standard error over the P prompts
    ESS = (sum_i rho_i)^2 / (N * sum_i rho_i^2)

G is unbiased uncapped and exactly 0 at theta-hat = theta. The ESS is taken from the **uncapped**
weights: capped ones always look healthy. Never the difference of one shared batch's means.

`fresh`, from rollouts of each branch's own on the same prompts: gaps are differences of the
prompt's means, G and its standard error as above.

Prompts whose groups dynamic sampling dropped count as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coop_rl.config import RunConfig
from coop_rl.types import CooperativeGain, ScoredGroup, StepResult

PerPrompt = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GainSettings:
    """How the gain is estimated and when it counts."""

    min_ess: float = 0.5
    is_guarded: bool = True
    """Whether a bracket whose ESS is below min_ess must not move w (gain.estimator `auto`)."""
    ratio_cap: float = 5.0
    """Cap of the weights in the gradient; only its exceedance is reported here."""
    kl_weight: float = 0.0
    """beta, the weight of the KL in J_RL."""
    always_fresh: bool = False
    """Whether every bracket is measured on the shadow's own rollouts."""
    may_be_fresh: bool = False
    """Whether rollout actors serve the shadow, so that `auto` can fall back to `fresh`."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Take the sections `gain`, `shadow` and `method.rl`."""
        rl = config.method.rl_settings
        estimator = config.gain.estimator
        return cls(
            min_ess=config.gain.min_ess,
            is_guarded=estimator == "auto",
            ratio_cap=rl.ratio_cap,
            kl_weight=rl.kl.weight,
            always_fresh=estimator == "fresh" or config.shadow.rollouts == "own",
            may_be_fresh=estimator == "auto" and config.shadow.num_rollout_actors > 0,
        )


def effective_sample_size(log_ratio_N: NDArray[np.float64]) -> float:
    """Return ESS as a fraction of N, in (0, 1], from uncapped log weights (overflow-safe)."""
    weight = np.exp(log_ratio_N - log_ratio_N.max())
    return float(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))


def gain_per_prompt(
    reward_PG: NDArray[np.float64],
    joint_log_ratio_PG: NDArray[np.float64],
    shadow_log_ratio_PG: NDArray[np.float64],
) -> PerPrompt:
    """Return the reward gap of each prompt; a sample's baseline is the mean of the others'."""
    num_samples = reward_PG.shape[1]
    total_P1 = reward_PG.sum(axis=1, keepdims=True)
    baseline_PG = (total_P1 - reward_PG) / (num_samples - 1)
    difference_PG = np.exp(joint_log_ratio_PG) - np.exp(shadow_log_ratio_PG)
    return np.asarray((difference_PG * (reward_PG - baseline_PG)).mean(axis=1))


def estimate_gain(
    groups: Sequence[ScoredGroup],
    fresh: Sequence[ScoredGroup],
    num_dropped: int,
    joint: StepResult,
    shadow: StepResult,
    settings: GainSettings,
) -> CooperativeGain:
    """Estimate G at one step.

    Args:
        groups: The groups of the first minibatch, sampled from the joint branch.
        fresh: The shadow's own rollouts on the same prompts; empty: the shared ones are reweighted.
        num_dropped: How many more prompts were sampled and then replaced by dynamic sampling.
        joint: The step's result of the joint branch.
        shadow: The step's result of the shadow.
        settings: How to estimate, and when the estimate counts.
    """
    shape = (len(groups), len(groups[0].rewards))
    joint_PG = np.array(joint.samples.log_ratio_N).reshape(shape)
    shadow_PG = np.array(shadow.samples.log_ratio_N).reshape(shape)
    ess = effective_sample_size(shadow_PG.ravel())
    ess_joint = effective_sample_size(joint_PG.ravel())
    is_healthy = bool(fresh) or min(ess, ess_joint) >= settings.min_ess
    reward_P, kl_P = None, None
    if fresh:
        reward_P = _mean_rewards(groups) - _mean_rewards(fresh)
        if joint.samples.kl_N:
            joint_kl_PG, shadow_kl_PG = (np.reshape(r.samples.kl_N, shape) for r in (joint, shadow))
            kl_P = joint_kl_PG.mean(1) - shadow_kl_PG.mean(1)
    elif is_healthy:
        reward_PG = np.array([[r.value for r in group.rewards] for group in groups])
        reward_P = gain_per_prompt(reward_PG, joint_PG, shadow_PG)
        if joint.samples.kl_N:
            joint_kl_PG, shadow_kl_PG = (np.reshape(r.samples.kl_N, shape) for r in (joint, shadow))
            kl_P = (np.exp(joint_PG) * joint_kl_PG - np.exp(shadow_PG) * shadow_kl_PG).mean(1)
    value_P = None
    if reward_P is not None:
        penalty_P = 0.0 if kl_P is None else settings.kl_weight * kl_P
        value_P = np.concatenate([reward_P - penalty_P, np.zeros(num_dropped)])
    share = len(groups) / (len(groups) + num_dropped)
    return CooperativeGain(
        estimator="fresh" if fresh else "reweighted",
        value=None if value_P is None else float(value_P.mean()),
        stderr=standard_error(value_P),
        reward_gap=None if reward_P is None else float(reward_P.mean()) * share,
        kl_gap=None if kl_P is None else float(kl_P.mean()) * share,
        ess=ess,
        ess_joint=ess_joint,
        capped_share=float((shadow_PG > np.log(settings.ratio_cap)).mean()),
        shadow_kl=float((joint_PG - shadow_PG).mean()),
        is_usable=is_healthy or not settings.is_guarded,
    )


def standard_error(value_P: PerPrompt | None) -> float | None:
    """Return the standard error of the mean over prompts; None where there are fewer than two."""
    if value_P is None or len(value_P) < 2:
        return None
    return float(value_P.std(ddof=1) / np.sqrt(len(value_P)))


def _mean_rewards(groups: Sequence[ScoredGroup]) -> PerPrompt:
    return np.array([np.mean([r.value for r in group.rewards]) for group in groups])
