r"""`luffy`: the group of a prompt holds its expert trace, whose gradient is shaped.

    A_i = R_i - mean_j R_j            j over the n rollouts and the expert trace (R = 1); no std
    L   = - 1/(N max_tokens) ( sum_on sum_t r_t A_i + sum_expert sum_t f(pi(t)) A_e ) - alpha H
    r   = pi / pi_old, not clipped        f(p) = p / (p + 0.1)

with N all rows, rollouts and experts. Where all n rollouts are right, A_e = 0: the expert has
nothing to add. Each part is divided by its own global count and weighs by its share of the rows,
which is the same. H is the mean over tokens of each part, weighed alike. Prompts without a
demonstration are plain groups.

Source: LUFFY, arXiv 2504.14945, equations 4 to 8; neither std nor length normalisation (section 4);
7 rollouts and the expert, so rollout.samples_per_prompt, which counts rollouts alone, is 7; rate
1e-6. The authors' code (ElliottYan/LUFFY) sets alpha = 0.001, the paper says 0.01. Two differences
to that code: its mean_j leaves the expert out, against equation 4; and it sums a micro-batch's
rows without dividing by their number, so that alpha weighs less the more rows there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coop_rl.algorithm.advantage import group_advantages
from coop_rl.algorithm.estimators.base import (
    Advantages,
    RlEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
    reward_values,
)
from coop_rl.algorithm.estimators.shared import relative_to_group
from coop_rl.algorithm.methods.base import Method, Needs, StepData, to_token_samples
from coop_rl.config.rivals import LuffyMethod
from coop_rl.types import (
    DemonstrationTerm,
    Lesson,
    Objective,
    ScoredGroup,
)

EXPERT_REWARD = 1.0
"""A demonstration is right."""


@dataclass(frozen=True, slots=True)
class OnPolicy(RlEstimator):
    """LUFFY's on-policy part, which ReLIFT uses too: unclipped ratios, a constant divisor."""

    max_tokens: int

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return R less the mean of the rollouts alone."""
        return relative_to_group(groups, normalize_by_std=False)

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share of - 1/(N max_tokens) sum_t r_t A."""
        ratio_T = (tokens.log_prob_T - tokens.old_log_prob_T).exp()
        term_T = tokens.mismatch_T * ratio_T * tokens.advantage_B[tokens.row_T]
        loss = -term_T.sum() / (counts.samples * self.max_tokens)
        return RlLoss(loss, tokens.length_B.new_zeros(()))


def advantages_with_expert(
    group: ScoredGroup, normalize_by_std: bool
) -> tuple[NDArray[np.float64], float]:
    """Return (A_G of the rollouts, A_e of the expert trace) in the group of all of them."""
    reward = np.append(reward_values(group), EXPERT_REWARD)
    advantage = group_advantages(reward, normalize_by_std)
    return advantage[:-1], float(advantage[-1])


class Luffy(Method[LuffyMethod]):
    """RL on groups that an expert belongs to."""

    def make_estimator(self) -> RlEstimator:
        """Return the loss of the rollouts."""
        return OnPolicy(self.max_tokens)

    def needs(self, step: int) -> Needs:
        """Return rollouts, and their prompts' demonstrations."""
        return Needs(rollouts=True, demonstrations="matching")

    def compose(self, data: StepData) -> Lesson:
        """Put the experts into their groups."""
        expert_of = data.expert_of()
        experts = [
            replace(
                expert_of[group.prompt.id],
                weight=advantages_with_expert(group.valid(), normalize_by_std=False)[1],
            )
            for group in data.groups
            if group.prompt.id in expert_of
        ]

        def advantages(groups: Sequence[ScoredGroup]) -> Advantages:
            return [
                advantages_with_expert(group, normalize_by_std=False)[0]
                if group.prompt.id in expert_of
                else group_advantages(reward_values(group), normalize_by_std=False)
                for group in groups
            ]

        samples = to_token_samples(data.groups, advantages)
        share = len(experts) / (len(experts) + len(samples))
        objective = Objective(
            rl_weight=1.0 - share,
            sft_weight=share,
            terms=(DemonstrationTerm("shaped"),),
            sft_entropy_weight=share * self.section.entropy_weight,
        )
        return Lesson(samples, experts, objective)
