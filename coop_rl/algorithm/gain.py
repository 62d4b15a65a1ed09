r"""The cooperative gain G = J_RL(theta, w) - J_RL(theta-hat, w), from shared rollouts.

docs/algorithm.md section 4.

With rho_i = exp(l_i) the uncapped sequence weight of sample i under a branch (`losses`):

    G_p   = mean_i ( rho_theta,i - rho_theta-hat,i ) * ( R_i - mean_{j != i} R_j )
    G     = mean_p G_p           standard error over the P prompts
    ESS   = (sum_i rho_i)^2 / (N * sum_i rho_i^2)

G is unbiased uncapped and exactly 0 at theta-hat = theta. The ESS is taken from the **uncapped**
weights: capped ones always look healthy. Never the difference of one shared batch's means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from coop_rl.config import RunConfig
from coop_rl.config.method import RlSettings
from coop_rl.types import CooperativeGain, ScoredGroup, StepResult


@dataclass(frozen=True, slots=True)
class GainSettings:
    """When an estimate counts."""

    min_ess: float
    is_guarded: bool
    """`auto`: below min_ess the bracket must not move w; `reweighted`: it always may."""
    ratio_cap: float
    """Cap of the weights in the gradient; only its exceedance is reported here."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Take the sections `gain` and `method.rl`."""
        rl = RlSettings() if config.method.kind == "sft" else config.method.rl
        return cls(config.gain.min_ess, config.gain.estimator == "auto", rl.ratio_cap)


def effective_sample_size(log_ratio_N: NDArray[np.float64]) -> float:
    """Return ESS as a fraction of N, in (0, 1], from uncapped log weights (overflow-safe)."""
    weight = np.exp(log_ratio_N - log_ratio_N.max())
    return float(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))


def gain_per_prompt(
    reward_PG: NDArray[np.float64],
    joint_log_ratio_PG: NDArray[np.float64],
    shadow_log_ratio_PG: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return G_P; a sample's baseline is the mean reward of its prompt's other samples."""
    num_samples = reward_PG.shape[1]
    total_P1 = reward_PG.sum(axis=1, keepdims=True)
    baseline_PG = (total_P1 - reward_PG) / (num_samples - 1)
    difference_PG = np.exp(joint_log_ratio_PG) - np.exp(shadow_log_ratio_PG)
    return np.asarray((difference_PG * (reward_PG - baseline_PG)).mean(axis=1))


def estimate_gain(
    groups: Sequence[ScoredGroup], joint: StepResult, shadow: StepResult, settings: GainSettings
) -> CooperativeGain:
    """Estimate G with common random numbers from one step's shared rollouts."""
    shape = (len(groups), len(groups[0].rewards))
    reward_PG = np.array([[r.value for r in group.rewards] for group in groups])
    joint_PG = np.array(joint.log_ratio_N).reshape(shape)
    shadow_PG = np.array(shadow.log_ratio_N).reshape(shape)
    ess, ess_joint = (
        effective_sample_size(shadow_PG.ravel()),
        effective_sample_size(joint_PG.ravel()),
    )
    is_healthy = min(ess, ess_joint) >= settings.min_ess
    gain_P = gain_per_prompt(reward_PG, joint_PG, shadow_PG) if is_healthy else None
    return CooperativeGain(
        value=None if gain_P is None else float(gain_P.mean()),
        stderr=None
        if gain_P is None or len(gain_P) < 2
        else float(gain_P.std(ddof=1) / np.sqrt(len(gain_P))),
        ess=ess,
        ess_joint=ess_joint,
        capped_share=float((shadow_PG > np.log(settings.ratio_cap)).mean()),
        shadow_kl=float((joint_PG - shadow_PG).mean()),
        is_usable=is_healthy or not settings.is_guarded,
    )
