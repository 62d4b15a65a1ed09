r"""What several estimators share: advantages relative to the group, and the clipped surrogate.

With the ratio r_t = pi(t) / pi_old(t), the advantage A and the limits low, high
    S_t = min( r_t A, clip(r_t, 1 - low, 1 + high) A )        PPO, arXiv 1707.06347, equation 7
The gradient of S_t is r_t A grad log pi(t) where the first is smaller, and 0 where the clip cut it
off: at A > 0 and r_t > 1 + high, and at A < 0 and r_t < 1 - low.
"""

from collections.abc import Sequence

import torch

from coop_rl.algorithm.advantage import group_advantages
from coop_rl.algorithm.estimators.base import Advantages, RolloutTokens, reward_values
from coop_rl.types import ScoredGroup


def relative_to_group(groups: Sequence[ScoredGroup], normalize_by_std: bool) -> Advantages:
    """Return A of every sample, relative to its group (`advantage`)."""
    return [group_advantages(reward_values(group), normalize_by_std) for group in groups]


def clipped_surrogate(
    ratio: torch.Tensor, advantage: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (S, whether the clip cut its gradient off); all of one shape."""
    plain = ratio * advantage
    clipped = ratio.clamp(1.0 - low, 1.0 + high) * advantage
    return torch.minimum(plain, clipped), clipped < plain


def token_surrogate(
    tokens: RolloutTokens, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (mismatch * S, whether the clip cut its gradient off) of every token, both T."""
    ratio_T = (tokens.log_prob_T - tokens.old_log_prob_T).exp()
    surrogate_T, is_clipped_T = clipped_surrogate(
        ratio_T, tokens.advantage_B[tokens.row_T], low, high
    )
    return tokens.mismatch_T * surrogate_T, is_clipped_T
