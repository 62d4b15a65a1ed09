r"""Group-relative advantages: the baseline is the group's own mean reward.

    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-6)        GRPO, arXiv 2402.03300, section 4.1.2
    A_i =  R_i - mean_j R_j                              Dr.GRPO, arXiv 2503.20783, equation 4

with j over the G samples of one prompt and the population standard deviation. A group whose
rewards are all equal has advantage 0 everywhere, so it adds no gradient.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coop_rl.types import ScoredGroup, TokenSample

STD_FLOOR = 1e-6
"""Keeps the quotient finite for equal rewards; GRPO implementations agree on the magnitude."""


def group_advantages(reward_G: Sequence[float], normalize_by_std: bool) -> NDArray[np.float64]:
    """Return A_G for the rewards of one prompt's samples."""
    reward = np.asarray(reward_G, dtype=np.float64)
    centred = reward - reward.mean()
    if not normalize_by_std:
        return np.asarray(centred)
    return np.asarray(centred / (reward.std() + STD_FLOOR))


def to_token_samples(groups: Sequence[ScoredGroup], normalize_by_std: bool) -> list[TokenSample]:
    """Return N = P x G samples with their advantages, group by group in order."""
    samples = []
    for group in groups:
        advantage_G = group_advantages([r.value for r in group.rewards], normalize_by_std)
        for rollout, advantage in zip(group.rollouts, advantage_G, strict=True):
            samples.append(
                TokenSample(
                    prompt_ids=group.prompt.token_ids,
                    response_ids=rollout.token_ids,
                    behaviour_log_probs=rollout.behaviour_log_probs,
                    advantage=float(advantage),
                )
            )
    return samples
