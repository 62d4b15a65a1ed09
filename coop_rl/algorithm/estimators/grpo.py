r"""`grpo`: GRPO, arXiv 2402.03300, section 4.1 (equation 3; advantages: section 4.1.2).

    L   = - 1/N sum_i 1/|y_i| sum_t m_t S_t
    S_t = min( r_t A_i, clip(r_t, 1 - clip, 1 + clip) A_i ),   r_t = pi(t) / pi_old(t)
    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-6)              j over the sample's group

over N samples y_i; m is the engine's mismatch weight. Every response counts alike, whatever its
length. The paper's KL term is `algorithm.kl`, outside.
"""

from collections.abc import Sequence

from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
)
from coop_rl.algorithm.estimators.shared import relative_to_group, token_surrogate
from coop_rl.config.estimators import GrpoRl
from coop_rl.types import ScoredGroup


class Grpo(ConfiguredEstimator[GrpoRl]):
    """Clipped ratios; mean over each response, then over responses."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group, in its standard deviations."""
        return relative_to_group(groups, normalize_by_std=True)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        surrogate_T, is_clipped_T = token_surrogate(tokens, self.settings.clip, self.settings.clip)
        mean_share_T = surrogate_T / tokens.length_B[tokens.row_T]
        return RlLoss(-mean_share_T.sum() / counts.samples, is_clipped_T.sum())
