"""RL estimators, one file each; a run's is built from the settings' class.

At pi = pi_old = pi_b and equal advantages, `reweighted`, `dapo`, `reinforce_pp`, `cispo` and `ppo`
have one gradient: - 1/T sum_i A_i sum_t grad log pi(t), over the T tokens of all samples. `grpo`
and `gspo` share another, with 1/(N |y_i|) for 1/T; `rloo` has 1/N and `dr_grpo` 1/(N max_tokens).
"""

from typing import Any

from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
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
from coop_rl.config.estimators import (
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

ESTIMATORS: dict[type[RlSettings], type[ConfiguredEstimator[Any]]] = {
    ReweightedRl: Reweighted,
    GrpoRl: Grpo,
    DrGrpoRl: DrGrpo,
    DapoRl: Dapo,
    RlooRl: Rloo,
    ReinforcePlusPlusRl: ReinforcePlusPlus,
    GspoRl: Gspo,
    CispoRl: Cispo,
    PpoRl: Ppo,
}


def build_estimator(settings: RlSettings, max_tokens: int) -> RlEstimator:
    """Build the estimator of a section `rl`.

    Args:
        settings: The section, of the class that names the estimator.
        max_tokens: Limit of a response's length (rollout.max_tokens).

    Raises:
        TypeError: The settings name no estimator.
    """
    if type(settings) not in ESTIMATORS:
        raise TypeError(f"{type(settings).__name__} names no RL estimator")
    return ESTIMATORS[type(settings)](settings, max_tokens)


__all__ = [
    "ESTIMATORS",
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
