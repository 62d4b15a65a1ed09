r"""`ppo`: PPO-clip, arXiv 1707.06347, equation 7, without a critic.

    L   = - 1/T sum_i sum_t m_t S_t
    S_t = min( r_t A_i, clip(r_t, 1 - clip, 1 + clip) A_i ),   r_t = pi(t) / pi_old(t)
    S_t = max( S_t, dual_clip A_i )   where A_i < 0            arXiv 1912.09729
    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-6)              j over the sample's group

over the samples i and their tokens t, T the tokens of all samples; m is the engine's mismatch
weight. The second limit is for tokens that became far likelier although their response was bad:
S_t is unbounded there without it, and so is its gradient.
"""

from collections.abc import Sequence

import torch

from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
)
from coop_rl.algorithm.estimators.shared import clipped_surrogate, relative_to_group
from coop_rl.config.estimators import PpoRl
from coop_rl.types import ScoredGroup


class Ppo(ConfiguredEstimator[PpoRl]):
    """Clipped ratios, token mean, group-relative advantages."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group, in its standard deviations."""
        return relative_to_group(groups, normalize_by_std=True)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        advantage_T = tokens.advantage_B[tokens.row_T]
        ratio_T = (tokens.log_prob_T - tokens.old_log_prob_T).exp()
        surrogate_T, is_clipped_T = clipped_surrogate(
            ratio_T, advantage_T, self.settings.clip, self.settings.clip
        )
        if self.settings.dual_clip is not None:
            limit_T = self.settings.dual_clip * advantage_T
            is_limited_T = (advantage_T < 0) & (limit_T > surrogate_T)
            surrogate_T = torch.where(is_limited_T, limit_T, surrogate_T)
            is_clipped_T = is_clipped_T | is_limited_T
        loss = -(tokens.mismatch_T * surrogate_T).sum() / counts.tokens
        return RlLoss(loss, is_clipped_T.sum())
