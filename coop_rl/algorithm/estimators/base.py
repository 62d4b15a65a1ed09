"""What a learner asks of an RL estimator: advantages of a batch, and a loss of a micro-batch.

    ScoredGroups --advantages--> A per sample --pack--> RolloutTokens --loss--> share of L_RL

Every estimator is one file beside this one, pure, with its equation and source in the docstring.
A loss is a micro-batch's **share**: summed over micro-batches and ranks it is the loss of the whole
batch, because it divides by global counts only; so no gradient depends on how a batch was cut.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from coop_rl.config.estimators import RlSettings
from coop_rl.types import ScoredGroup

S = TypeVar("S", bound=RlSettings)

Advantages = list[NDArray[np.float64]]
"""One array A_G per group, in order."""


@dataclass(frozen=True, slots=True)
class RolloutTokens:
    """A micro-batch of rollouts as a loss sees it: T response tokens in B rows."""

    log_prob_T: torch.Tensor
    """log pi of the branch's policy, with gradient; nats."""
    old_log_prob_T: torch.Tensor
    """log pi_old, that of the policy before the batch's first optimiser step, detached; pi_old is
    the ratio's denominator."""
    behaviour_log_prob_T: torch.Tensor
    """log pi_b, that of the policy the engine sampled with."""
    mismatch_T: torch.Tensor
    """sg[ min( pi_old / pi_b, cap ) ]: truncated importance weight of every token; ones where the
    correction is off. An estimator multiplies each token's term by it (Yao et al., Your Efficient
    RL Framework Secretly Brings You Off-Policy RL Training, 2025: engines compute other
    probabilities than learners; LlamaRL, arXiv 2505.24034, truncates pi / pi_b)."""
    row_T: torch.Tensor
    """int64; the micro-batch row of each token, ascending."""
    advantage_B: torch.Tensor
    """The advantage A of each row."""
    length_B: torch.Tensor
    """int64; response tokens of each row; 0 for an anchor row."""
    teacher_log_prob_T: torch.Tensor | None = None
    """log pi of the same tokens behind the teacher's prompt, detached; None unless the estimator
    asks for it."""


@dataclass(frozen=True, slots=True)
class RolloutCounts:
    """The global denominators: counts over all ranks and micro-batches of one optimiser step."""

    tokens: int
    """Response tokens."""
    samples: int
    """Rollouts."""
    entropy: float = math.nan
    """Mean entropy of the policy over all rollout tokens before the step, nats; nan unless the
    estimator asks for it."""


class RlLoss(NamedTuple):
    """A micro-batch's share."""

    loss: torch.Tensor
    """Scalar, to be minimised."""
    num_clipped: torch.Tensor
    """Scalar, detached: tokens whose gradient the clip cut off (`gspo`: tokens of such responses);
    where a limit cuts no gradient off (`cispo`, `rloo`, `reweighted`), those whose weight it
    limited."""


class RlEstimator(ABC):
    """One way of estimating the policy gradient; what most share is the default."""

    is_bracket_loss: ClassVar[bool] = False
    """Whether `loss` is the sequence-weighted one the bracket needs (`reweighted`), so that one
    backward pass serves theta and w."""
    needs_entropy: ClassVar[bool] = False
    """Whether `RolloutCounts.entropy` must be measured, which costs a forward pass."""
    needs_teacher: ClassVar[bool] = False
    """Whether `RolloutTokens.teacher_log_prob_T` must be measured, which costs a forward pass."""

    @abstractmethod
    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return A of every sample of a batch."""

    @abstractmethod
    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share of L_RL."""

    def is_informative(self, group: ScoredGroup) -> bool:  # noqa: ARG002
        """Whether a group is kept; others are replaced by dynamic sampling (DAPO)."""
        return True


@dataclass(frozen=True)
class ConfiguredEstimator(RlEstimator, Generic[S]):
    """An estimator that `method.rl` chooses, with its section."""

    settings: S
    max_tokens: int
    """Limit of a response's length (rollout.max_tokens)."""


def reward_values(group: ScoredGroup) -> NDArray[np.float64]:
    """Return R_G."""
    return np.array([reward.value for reward in group.rewards], dtype=np.float64)


def sum_by_row(value_T: torch.Tensor, row_T: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return the sum over each row's tokens, B; keeps gradients."""
    zeros_B = torch.zeros(num_rows, dtype=value_T.dtype, device=value_T.device)
    return zeros_B.index_add(0, row_T, value_T)
