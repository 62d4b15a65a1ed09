r"""Group-relative advantages: the baseline is the group's own mean reward.

    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-6)        GRPO, arXiv 2402.03300, section 4.1.2
    A_i =  R_i - mean_j R_j                              Dr.GRPO, arXiv 2503.20783, equation 4

with j over the G samples of one prompt and the population standard deviation. A group whose
rewards are all equal has advantage 0 everywhere, so it adds no gradient.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STD_FLOOR = 1e-6
"""Added to the standard deviation, so that equal rewards can be divided by it; GRPO implementations
agree on the magnitude."""


def centre(reward_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rewards less their mean; exactly 0 where all are equal.

    The mean of three times 0.1 is not 0.1 in floating point.
    """
    if reward_N.min() == reward_N.max():
        return np.zeros_like(reward_N)
    return np.asarray(reward_N - reward_N.mean())


def group_advantages(
    reward_G: Sequence[float] | NDArray[np.float64], normalize_by_std: bool
) -> NDArray[np.float64]:
    """Return A_G for the rewards of one prompt's samples."""
    reward = np.asarray(reward_G, dtype=np.float64)
    centred = centre(reward)
    if not normalize_by_std:
        return centred
    return np.asarray(centred / (reward.std() + STD_FLOOR))
