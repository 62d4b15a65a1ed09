"""RL estimators, one file each; a run's is built from the settings' class.

At pi = pi_old = pi_b and equal advantages, `reweighted`, `dapo`, `reinforce_pp`, `cispo` and `ppo`
have one gradient: - 1/T sum_i A_i sum_t grad log pi(t), over the T tokens of all samples. `grpo`
and `gspo` share another, with 1/(N |y_i|) for 1/T; `rloo` has 1/N and `dr_grpo` 1/(N max_tokens).
"""

from coop_rl.algorithm.estimators.base import (
    Advantages,
    RlEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
)
from coop_rl.algorithm.estimators.cispo import Cispo
from coop_rl.algorithm.estimators.dapo import Dapo
from coop_rl.algorithm.estimators.dr_grpo import DrGrpo
from coop_rl.algorithm.estimators.grpo import Grpo
from coop_rl.algorithm.estimators.gspo import Gspo
from coop_rl.algorithm.estimators.ppo import Ppo
from coop_rl.algorithm.estimators.reinforce_pp import ReinforcePlusPlus
from coop_rl.algorithm.estimators.reweighted import Reweighted
from coop_rl.algorithm.estimators.rloo import Rloo
from coop_rl.config.method import (
    CispoRl,
    DapoRl,
    DrGrpoRl,
    GrpoRl,
    GspoRl,
    PpoRl,
    ReinforcePlusPlusRl,
    ReweightedRl,
    RlooRl,
    RlSettings,
)


def build_estimator(settings: RlSettings, max_tokens: int) -> RlEstimator:
    """Build the estimator of a section `rl`.

    Args:
        settings: The section, of the class that names the estimator.
        max_tokens: Limit of a response's length (rollout.max_tokens).

    Raises:
        TypeError: The settings name no estimator.
    """
    match settings:
        case ReweightedRl():
            return Reweighted(settings.normalize_by_std, settings.ratio_cap)
        case GrpoRl():
            return Grpo(settings.clip)
        case DrGrpoRl():
            return DrGrpo(settings.clip, max_tokens)
        case DapoRl():
            return Dapo(
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                max_refills=settings.max_refills,
                overlong_tokens=settings.overlong_tokens,
                max_tokens=max_tokens,
            )
        case RlooRl():
            return Rloo(settings.ratio_cap)
        case ReinforcePlusPlusRl():
            return ReinforcePlusPlus(settings.baseline, settings.clip)
        case GspoRl():
            return Gspo(settings.clip_low, settings.clip_high)
        case CispoRl():
            return Cispo(settings.clip_low, settings.clip_high)
        case PpoRl():
            return Ppo(settings.clip, settings.dual_clip)
        case _:
            raise TypeError(f"{type(settings).__name__} names no RL estimator")


__all__ = [
    "Advantages",
    "Cispo",
    "Dapo",
    "DrGrpo",
    "Grpo",
    "Gspo",
    "Ppo",
    "ReinforcePlusPlus",
    "Reweighted",
    "RlEstimator",
    "RlLoss",
    "Rloo",
    "RolloutCounts",
    "RolloutTokens",
    "build_estimator",
]
