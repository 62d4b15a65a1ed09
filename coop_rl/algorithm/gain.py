r"""The cooperative gain G = J_RL(theta, w) - J_RL(theta-hat, w), docs/algorithm.md section 4.

`reweighted`, from the joint branch's rollouts, with rho_i = exp(l_i) the uncapped sequence weight
of sample i under a branch (`losses`) and K_i its sum of log pi_branch - log pi_ref:

    reward gap_p = mean_i ( rho_theta,i - rho_theta-hat,i ) * ( R_i - mean_{j != i} R_j )
    kl gap_p     = mean_i ( rho_theta,i K_theta,i - rho_theta-hat,i K_theta-hat,i )
    G = mean_p ( reward gap_p - beta kl gap_p )         standard error over the P prompts
    ESS = (sum_i rho_i)^2 / (N * sum_i rho_i^2)

G is unbiased uncapped and exactly 0 at theta-hat = theta. The ESS is taken from the **uncapped**
weights: capped ones always look healthy. Never the difference of one shared batch's means.

`fresh`, from rollouts of each branch's own on the same prompts: the shadow's means R-hat are plain;
joint's rollouts may be older than theta (a lag), so they keep their weights:

    reward gap_p = mean_i rho_theta,i ( R_i - mean_{j != i} R_j ) + mean_i R_i - mean_i R-hat_i

Prompts whose groups dynamic sampling dropped count as 0; of several minibatches the first is
measured, with its share of them.

Where rounding hides theta-hat - theta, the shadow reports l_theta-hat - l_theta and
K_theta-hat - K_theta instead, measured over a longer way (`learner.resolution`).

**Pooled**: one step's G is mostly noise. The mean over the last steps that measured it has the
standard error sqrt( sum of squared errors ) / count, because every step has rollouts of its own.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coop_rl.config import RunConfig
from coop_rl.types import CooperativeGain, PooledGain, SampleSums, ScoredGroup

PerPrompt = NDArray[np.float64]
PerSample = NDArray[np.float64]
MIN_RESOLVED = 0.15
"""Smallest share of theta-hat's weights that must differ from theta's after rounding; c is made
for about twice that."""


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
    learns_own: bool = False
    """Whether the shadow learns from its own rollouts, so that its weights say nothing of
    joint's."""

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
            # Groups that dynamic sampling keeps are chosen by joint's luck, not by the shadow's.
            may_be_fresh=estimator == "auto"
            and config.shadow.num_rollout_actors > 0
            and not rl.selects_groups,
            learns_own=config.shadow.rollouts == "own",
        )


def effective_sample_size(log_ratio_N: NDArray[np.float64]) -> float:
    """Return ESS as a fraction of N, in (0, 1], from uncapped log weights (overflow-safe)."""
    weight = np.exp(log_ratio_N - log_ratio_N.max())
    return float(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))


def gain_per_prompt(
    reward_PG: PerSample, joint_log_ratio_PG: PerSample, shadow_log_ratio_PG: PerSample
) -> PerPrompt:
    """Return the reward gap of each prompt, reweighted."""
    difference_PG = np.exp(joint_log_ratio_PG) - np.exp(shadow_log_ratio_PG)
    return np.asarray((difference_PG * _above_baseline(reward_PG)).mean(axis=1))


def fresh_gain_per_prompt(
    reward_PG: PerSample, joint_log_ratio_PG: PerSample, fresh_reward_PG: PerSample
) -> PerPrompt:
    """Return the reward gap of each prompt from rollouts of both branches; joint's may be old."""
    above_P = (np.exp(joint_log_ratio_PG) * _above_baseline(reward_PG)).mean(axis=1)
    return np.asarray(above_P + reward_PG.mean(axis=1) - fresh_reward_PG.mean(axis=1))


def estimate_gain(
    groups: Sequence[ScoredGroup],
    fresh: Sequence[ScoredGroup],
    num_dropped: float,
    joint: SampleSums,
    shadow: SampleSums,
    settings: GainSettings,
    shadow_age: int = 1,
) -> CooperativeGain:
    """Estimate G at one step.

    Args:
        groups: The groups of the first minibatch, sampled from the joint branch.
        fresh: The shadow's own rollouts on the same prompts; empty: the shared ones are reweighted.
        num_dropped: Prompts that count as 0, as those that dynamic sampling replaced; a part of one
            where the first minibatch has a share of them.
        joint: The sums over each sample under the joint branch.
        shadow: Those under the shadow.
        settings: How to estimate, and when the estimate counts.
        shadow_age: RL-only steps that theta-hat is away from a theta.
    """
    shape = (len(groups), len(groups[0].rewards))
    joint_PG = np.array(joint.log_ratio_N).reshape(shape)
    shadow_PG = _of_shadow(joint_PG, shadow.log_ratio_N, is_relative=shadow.is_relative)
    reward_PG = _rewards(groups)
    ess_joint = effective_sample_size(joint_PG.ravel())
    ess = np.nan if settings.learns_own else effective_sample_size(shadow_PG.ravel())
    is_healthy = ess_joint >= settings.min_ess and (bool(fresh) or ess >= settings.min_ess)
    is_resolved = shadow.resolution.differing >= MIN_RESOLVED
    reward_P = kl_P = None
    if is_healthy and is_resolved:
        reward_P = gain_per_prompt(reward_PG, joint_PG, shadow_PG)
        if fresh:
            reward_P = fresh_gain_per_prompt(reward_PG, joint_PG, _rewards(fresh))
        if joint.kl_N:
            joint_kl_PG = np.array(joint.kl_N).reshape(shape)
            shadow_kl_PG = _of_shadow(joint_kl_PG, shadow.kl_N, is_relative=shadow.is_relative)
            weight_PG = 1.0 if fresh else np.exp(shadow_PG)
            kl_P = (np.exp(joint_PG) * joint_kl_PG - weight_PG * shadow_kl_PG).mean(1)
    value = stderr = None
    if reward_P is not None:
        penalty_P = 0.0 if kl_P is None else settings.kl_weight * kl_P
        value, stderr = _mean_and_error(reward_P - penalty_P, num_dropped)
    share = len(groups) / (len(groups) + num_dropped)
    return CooperativeGain(
        estimator="fresh" if fresh else "reweighted",
        value=value,
        stderr=stderr,
        reward_gap=None if reward_P is None else float(reward_P.mean()) * share,
        kl_gap=None if kl_P is None else float(kl_P.mean()) * share,
        ess=float(ess),
        ess_joint=ess_joint,
        capped_share=_unless_own(settings, (shadow_PG > np.log(settings.ratio_cap)).mean()),
        shadow_kl=_unless_own(settings, (joint_PG - shadow_PG).mean()),
        shadow_age=shadow_age,
        resolution=shadow.resolution,
        is_usable=is_healthy or not settings.is_guarded,
        is_resolved=is_resolved,
    )


class GainWindow:
    """The gains of the last steps that measured one."""

    def __init__(self, num_steps: int) -> None:
        """Hold the last `num_steps`."""
        self._measured: deque[tuple[float, float, int]] = deque(maxlen=num_steps)

    def add(self, gain: CooperativeGain | None) -> None:
        """Take a step's gain, if it was measured."""
        if gain is not None and gain.value is not None and gain.stderr is not None:
            self._measured.append((gain.value, gain.stderr, gain.shadow_age))

    def pooled(self) -> PooledGain | None:
        """Return the mean over the window; None while there is nothing in it."""
        if not self._measured:
            return None
        value_K, stderr_K, age_K = np.array(self._measured).T
        return PooledGain(
            value=float(value_K.mean()),
            stderr=float(np.sqrt((stderr_K**2).sum()) / len(stderr_K)),
            num_steps=len(value_K),
            shadow_age=float(age_K.mean()),
        )

    def state(self) -> list[list[float]]:
        """Return it as JSON."""
        return [list(measured) for measured in self._measured]

    def load_state(self, state: Sequence[Sequence[Any]]) -> None:
        """Go on from what `state` returned."""
        self._measured.extend((value, stderr, int(age)) for value, stderr, age in state)


def standard_error(value_P: PerPrompt) -> float | None:
    """Return the standard error of the mean over prompts; None where there are fewer than two."""
    return _mean_and_error(value_P, 0.0)[1]


def _mean_and_error(value_P: PerPrompt, num_zeros: float) -> tuple[float, float | None]:
    """Return mean and standard error over the values and so many zeros more, or a part of one."""
    count = len(value_P) + num_zeros
    mean = value_P.sum() / count
    if len(value_P) < 2:
        return float(mean), None
    squares = ((value_P - mean) ** 2).sum() + num_zeros * mean**2
    return float(mean), float(np.sqrt(squares / (count - 1) / count))


def _above_baseline(reward_PG: PerSample) -> PerSample:
    """Return each reward less the mean of the prompt's other samples."""
    total_P1 = reward_PG.sum(axis=1, keepdims=True)
    return np.asarray(reward_PG - (total_P1 - reward_PG) / (reward_PG.shape[1] - 1))


def _rewards(groups: Sequence[ScoredGroup]) -> PerSample:
    """Return the rewards; where nobody could score a response, the mean of its group's others."""
    return np.array([_of_group(group) for group in groups], dtype=np.float64)


def _of_group(group: ScoredGroup) -> list[float]:
    scored = [reward.value for reward in group.valid().rewards]
    if len(scored) == len(group.rewards):
        return scored
    mean = sum(scored) / max(1, len(scored))
    return [r.value if r.status == "scored" else mean for r in group.rewards]


def _of_shadow(joint_PG: PerSample, shadow_N: Sequence[float], *, is_relative: bool) -> PerSample:
    """Return the shadow's sums, which may be given as differences from joint's."""
    shadow_PG = np.array(shadow_N).reshape(joint_PG.shape)
    return np.asarray(joint_PG + shadow_PG) if is_relative else shadow_PG


def _unless_own(settings: GainSettings, value: float) -> float:
    """Return nan where both branches' weights are of rollouts of their own."""
    return float("nan") if settings.learns_own else float(value)
