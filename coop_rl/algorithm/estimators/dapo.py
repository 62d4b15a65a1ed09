r"""`dapo`: DAPO, arXiv 2503.14476, equations 8 to 13.

    L   = - 1/T sum_i sum_t m_t S_t                                          token mean, eq. 12
    S_t = min( r_t A_i, clip(r_t, 1 - clip_low, 1 + clip_high) A_i )         clip-higher, eq. 10
    A_i = (R'_i - mean_j R'_j) / (std_j R'_j + 1e-6),   R' = R + P           j over the group
    P   = max( -1, min( 0, (max_tokens - overlong - |y|) / overlong ) )      overlong, eq. 13

over the samples i and their tokens t, T the tokens of all samples, r_t = pi(t) / pi_old(t); m is
the engine's mismatch weight. P falls linearly from 0 to -1 over the last `overlong` tokens before
the limit, so a truncated response loses 1. The paper averages over each prompt's tokens in eq. 12
and over the whole batch's in its code; this is the latter.

Dynamic sampling (eq. 11): a group whose rewards R, without P, are all equal says nothing about
what is right and is replaced. The paper has no KL term.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coop_rl.algorithm.advantage import group_advantages
from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
    reward_values,
)
from coop_rl.algorithm.estimators.shared import token_surrogate
from coop_rl.config.estimators import DapoRl
from coop_rl.types import ScoredGroup


class Dapo(ConfiguredEstimator[DapoRl]):
    """Clip-higher, token mean, dynamic sampling, overlong shaping."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A of the shaped rewards, relative to the group."""
        return [
            group_advantages(reward_values(group) + self.overlong_penalty(group), True)
            for group in groups
        ]

    def overlong_penalty(self, group: ScoredGroup) -> NDArray[np.float64]:
        """Return P_G, from -1 to 0."""
        length_G = np.array([len(rollout.token_ids) for rollout in group.rollouts], np.float64)
        if self.settings.overlong_tokens is None:
            return np.zeros_like(length_G)
        start = self.max_tokens - self.settings.overlong_tokens
        return np.clip((start - length_G) / self.settings.overlong_tokens, -1.0, 0.0)

    def is_informative(self, group: ScoredGroup) -> bool:
        """Whether the rewards, before shaping, differ; always where dynamic sampling is off."""
        return self.settings.max_refills == 0 or len(set(reward_values(group.valid()))) > 1

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        surrogate_T, is_clipped_T = token_surrogate(
            tokens, self.settings.clip_low, self.settings.clip_high
        )
        return RlLoss(-surrogate_T.sum() / counts.tokens, is_clipped_T.sum())
