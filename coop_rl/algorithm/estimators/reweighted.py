r"""`reweighted`: policy gradient with the importance weight of the whole response.

    L = - 1/T sum_i sg[ min( prod_t pi(t) / pi_b(t), cap ) ] A_i sum_t log pi(t)

over the samples i and their tokens t, T the tokens of all samples; A as GRPO's, with or without
the division by the standard deviation. It is `losses.rl_loss`, bit for bit: the loss the bracket
needs (docs/algorithm.md section 4), so one backward pass serves theta and w.

The weight reaches from the engine's pi_b to pi itself, so `mismatch_T` is not applied: that would
correct twice. The cap limits a weight and cuts no gradient off; `num_clipped` counts the tokens of
the responses it limited.
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
from coop_rl.algorithm.losses import rl_loss
from coop_rl.config.estimators import ReweightedRl
from coop_rl.types import ScoredGroup


class Reweighted(ConfiguredEstimator[ReweightedRl]):
    """The sequence-weighted policy gradient."""

    is_bracket_loss = True

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A relative to the group."""
        return relative_to_group(groups, self.settings.normalize_by_std)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        loss, log_ratio_B = rl_loss(
            tokens.log_prob_T,
            tokens.behaviour_log_prob_T,
            tokens.row_T,
            tokens.advantage_B,
            len(tokens.length_B),
            counts.tokens,
            self.settings.ratio_cap,
        )
        return RlLoss(loss, tokens.length_B[log_ratio_B.exp() > self.settings.ratio_cap].sum())
