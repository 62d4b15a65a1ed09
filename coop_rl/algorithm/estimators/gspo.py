r"""`gspo`: GSPO, arXiv 2507.18071, equation 5; clip from section 5.1.

    L   = - 1/N sum_i m_i min( s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i )
    s_i = ( prod_t pi(t) / pi_old(t) )^(1/|y_i|)
    A_i = (R_i - mean_j R_j) / (std_j R_j + 1e-6)             j over the sample's group

over N samples. A response is clipped as a whole, and its gradient is
s_i A_i 1/|y_i| sum_t grad log pi(t), so at s = 1 that of GRPO.

The engine's mismatch weight must be one per response too, or tokens would be weighed apart again;
it takes the ratio's own form, m_i = ( prod_t m_t )^(1/|y_i|), so that where nothing is capped
m_i s_i = ( prod_t pi(t) / pi_b(t) )^(1/|y_i|). It stands outside the clip, which is about pi_old.
`num_clipped` counts the tokens of the responses whose gradient the clip cut off.
"""

from collections.abc import Sequence

from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
    sum_by_row,
)
from coop_rl.algorithm.estimators.shared import clipped_surrogate, relative_to_group
from coop_rl.config.estimators import GspoRl
from coop_rl.types import ScoredGroup


class Gspo(ConfiguredEstimator[GspoRl]):
    """One clipped, length-normalized ratio a response."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group, in its standard deviations."""
        return relative_to_group(groups, normalize_by_std=True)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        length_B = tokens.length_B
        divisor_B = length_B.clamp(min=1)
        log_ratio_T = tokens.log_prob_T - tokens.old_log_prob_T
        ratio_B = (sum_by_row(log_ratio_T, tokens.row_T, len(length_B)) / divisor_B).exp()
        log_mismatch_B = sum_by_row(tokens.mismatch_T.log(), tokens.row_T, len(length_B))
        mismatch_B = (log_mismatch_B / divisor_B).exp()
        surrogate_B, is_clipped_B = clipped_surrogate(
            ratio_B, tokens.advantage_B, self.settings.clip_low, self.settings.clip_high
        )
        # An anchor row is no response.
        loss = -(mismatch_B * surrogate_B * (length_B > 0)).sum() / counts.samples
        return RlLoss(loss, length_B[is_clipped_B].sum())
