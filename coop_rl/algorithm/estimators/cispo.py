r"""`cispo`: CISPO, arXiv 2506.13585 (MiniMax-M1), section 3.1.

    L   = - 1/T sum_i sum_t m_t sg[ clip(r_t, 1 - clip_low, 1 + clip_high) ] A_i log pi(t)
    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-6)             j over the sample's group

over the samples i and their tokens t, T the tokens of all samples, r_t = pi(t) / pi_old(t); m is
the engine's mismatch weight. The clip limits a token's weight and never drops its gradient: rare
tokens whose probability rises fast ("However", "Wait") go on being learned. Without `clip_low`
small ratios are left alone, as in the paper. `num_clipped` counts tokens whose weight was limited.
"""

from collections.abc import Sequence

from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
)
from coop_rl.algorithm.estimators.shared import relative_to_group
from coop_rl.config.estimators import CispoRl
from coop_rl.types import ScoredGroup


class Cispo(ConfiguredEstimator[CispoRl]):
    """REINFORCE by tokens with clipped importance weights."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group, in its standard deviations."""
        return relative_to_group(groups, normalize_by_std=True)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        ratio_T = (tokens.log_prob_T.detach() - tokens.old_log_prob_T).exp()
        lowest = None if self.settings.clip_low is None else 1.0 - self.settings.clip_low
        weight_T = ratio_T.clamp(lowest, 1.0 + self.settings.clip_high)
        coefficient_T = weight_T * tokens.advantage_B[tokens.row_T] * tokens.mismatch_T
        loss = -(coefficient_T * tokens.log_prob_T).sum() / counts.tokens
        return RlLoss(loss, (weight_T != ratio_T).sum())
