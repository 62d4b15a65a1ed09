r"""`dr_grpo`: Dr. GRPO, arXiv 2503.20783, section 3.2 and its listing.

    L   = - 1/(N max_tokens) sum_i sum_t m_t S_t
    S_t = min( r_t A_i, clip(r_t, 1 - clip, 1 + clip) A_i ),   r_t = pi(t) / pi_old(t)
    A_i = R_i - mean_j R_j                                     j over the sample's group

over N samples; m is the engine's mismatch weight. The divisor is a constant, so a token weighs the
same in short and long responses; GRPO's 1/|y_i| favours short right and long wrong ones, and its
standard deviation favours prompts that are almost always or almost never solved.
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
from coop_rl.config.estimators import DrGrpoRl
from coop_rl.types import ScoredGroup


class DrGrpo(ConfiguredEstimator[DrGrpoRl]):
    """Clipped ratios; no division by standard deviation or response length."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group, in units of reward."""
        return relative_to_group(groups, normalize_by_std=False)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        surrogate_T, is_clipped_T = token_surrogate(tokens, self.settings.clip, self.settings.clip)
        loss = -surrogate_T.sum() / (counts.samples * self.max_tokens)
        return RlLoss(loss, is_clipped_T.sum())
