r"""`reinforce_pp`: REINFORCE++, arXiv 2501.03262: advantages normalized over the whole batch.

    L   = - 1/T sum_i sum_t m_t min( r_t A_i, clip(r_t, 1 - clip, 1 + clip) A_i )
    A_i = B_i / (std_batch B + 1e-6)
    B_i = R_i - mean_batch R          `batch`
    B_i = R_i - mean_group R          `group`, the paper's "REINFORCE++ w/ baseline"

over the samples i and their tokens t, T the tokens of all samples, r_t = pi(t) / pi_old(t); m is
the engine's mismatch weight. A has mean 0 in both (`group`: B has, group by group) and population
standard deviation 1 over the batch, which is all rollouts of a step, however many minibatches it
is cut into. Mean and deviation are over responses; public code (OpenRLHF, verl) takes them over
tokens, which lets long responses set the scale.

With `batch` a group of equal rewards still has a gradient; with `group` it has none. The paper's
token-wise KL reward is `algorithm.kl`, outside.
"""

from collections.abc import Sequence

import numpy as np

from coop_rl.algorithm.advantage import STD_FLOOR, centre
from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
    reward_values,
)
from coop_rl.algorithm.estimators.shared import token_surrogate
from coop_rl.config.estimators import ReinforcePlusPlusRl
from coop_rl.types import ScoredGroup


class ReinforcePlusPlus(ConfiguredEstimator[ReinforcePlusPlusRl]):
    """Clipped ratios, token mean, advantages in standard deviations of the batch."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the batch, or to the group, in the batch's deviations."""
        if not groups:
            return []
        rewards = [reward_values(group) for group in groups]
        if self.settings.baseline == "group":
            centred_N = np.concatenate([centre(reward_G) for reward_G in rewards])
        else:
            centred_N = centre(np.concatenate(rewards))
        advantage_N = centred_N / (centred_N.std() + STD_FLOOR)
        return np.split(advantage_N, np.cumsum([len(reward_G) for reward_G in rewards])[:-1])

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        surrogate_T, is_clipped_T = token_surrogate(tokens, self.settings.clip, self.settings.clip)
        return RlLoss(-surrogate_T.sum() / counts.tokens, is_clipped_T.sum())
