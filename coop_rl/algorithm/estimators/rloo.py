r"""`rloo`: REINFORCE with a leave-one-out baseline, arXiv 2402.14740 (after Kool et al., 2019).

    L   = - 1/N sum_i sg[ min( prod_t pi(t) / pi_old(t), cap ) ] A_i sum_t m_t log pi(t)
    A_i = R_i - mean_{j != i} R_j                                    j over the sample's group

over N samples; the whole response is one action, so tokens are summed, not averaged. m is the
engine's mismatch weight. The baseline is independent of its sample, so without cap and mismatch
-grad L is unbiased for the policy gradient of the mean reward.

The paper takes one step per batch, where the weight is 1. In later minibatches the samples are
those of an older policy; the weight of the whole response is the one that keeps the gradient
unbiased then (1 is not, nor are ratios of single tokens). Its cap is the only choice of this
project's; it limits a weight and cuts no gradient off. `num_clipped` counts the tokens of the
responses it limited.
"""

from collections.abc import Sequence

from coop_rl.algorithm.advantage import centre
from coop_rl.algorithm.estimators.base import (
    Advantages,
    ConfiguredEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
    reward_values,
)
from coop_rl.algorithm.losses import sequence_log_ratio
from coop_rl.config.estimators import RlooRl
from coop_rl.types import ScoredGroup


class Rloo(ConfiguredEstimator[RlooRl]):
    """Whole responses, each compared with the group's others."""

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group's other samples; a group has at least two.

        R_i - mean_{j != i} R_j = G / (G - 1) (R_i - mean_j R_j).
        """
        return [
            centre(reward_values(group)) * (len(group.rewards) / (len(group.rewards) - 1))
            for group in groups
        ]

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        log_prob_T = tokens.log_prob_T
        log_ratio_B = sequence_log_ratio(
            log_prob_T, tokens.old_log_prob_T, tokens.row_T, len(tokens.length_B)
        )
        ratio_B = log_ratio_B.exp()
        coefficient_B = ratio_B.clamp(max=self.settings.ratio_cap) * tokens.advantage_B
        coefficient_T = coefficient_B.to(log_prob_T.dtype)[tokens.row_T] * tokens.mismatch_T
        loss = -(coefficient_T * log_prob_T).sum() / counts.samples
        return RlLoss(loss, tokens.length_B[ratio_B > self.settings.ratio_cap].sum())
