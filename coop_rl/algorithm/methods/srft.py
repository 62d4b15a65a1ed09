r"""`srft`: SFT and RL on demonstrations and rollouts at once, weighed by the policy's entropy.

    L = 0.5 sg[exp(-H_demo)] NLL(demo)  -  mean_t A_e f(pi(t))             demonstrations
        - 0.1 sg[exp(H_roll)] mean_t log pi(t) over right rollouts
        + mean_t log pi(t) over wrong rollouts                             (means over all tokens)
    A_e = (R_e - mean) / std          over the prompt's n rollouts and its expert trace (R_e = 1)
    f(p) = p / (p + 0.1)

H is the policy's mean token entropy, H_demo over the step's demonstrations and H_roll over its
rollouts; each costs a forward pass. Each term is divided by its own global token count.

Source: SRFT, arXiv 2506.19767, section 4: A_e equation 7, the terms equations 8, 9 and 12, which
leave open what H is averaged over. Weights 0.5 and 0.1, rate 1e-6. Equations 9 and 10 have pi(t)
itself for f(pi(t)): behaviour probability 1, no clip; f is what the authors' script runs
(fyqqyf/SRFT, built on LUFFY's code), by others' reading, as is that their code weighs NLL with
exp(+H), against equation 8, and adds LUFFY's entropy bonus. Here it is the paper's exp(-H), and
no bonus.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from coop_rl.algorithm.estimators.base import (
    Advantages,
    RlEstimator,
    RlLoss,
    RolloutCounts,
    RolloutTokens,
)
from coop_rl.algorithm.methods.base import Method, Needs, StepData, to_token_samples
from coop_rl.algorithm.methods.luffy import advantages_with_expert
from coop_rl.config.rivals import SrftMethod
from coop_rl.types import (
    DemonstrationTerm,
    Lesson,
    Objective,
    ScoredGroup,
)


@dataclass(frozen=True, slots=True)
class RightAndWrong(RlEstimator):
    """The terms about rollouts: right responses become likelier, the more so the higher H is; wrong
    ones become less likely."""

    right_weight: float
    needs_entropy = True

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return 1 for right responses and -1 for wrong ones."""
        return [
            np.array([1.0 if reward.is_correct else -1.0 for reward in group.rewards])
            for group in groups
        ]

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share."""
        right = self.right_weight * float(np.exp(counts.entropy))
        sign_T = tokens.advantage_B[tokens.row_T]
        weight_T = torch.where(sign_T > 0, right, sign_T) * tokens.mismatch_T
        loss = -(weight_T * tokens.log_prob_T).sum() / counts.tokens
        return RlLoss(loss, tokens.length_B.new_zeros(()))


class Srft(Method[SrftMethod]):
    """Four terms at every step."""

    def make_estimator(self) -> RlEstimator:
        """Return the terms about rollouts."""
        return RightAndWrong(self.section.right_weight)

    def needs(self, step: int) -> Needs:
        """Return rollouts, and their prompts' demonstrations."""
        return Needs(rollouts=True, demonstrations="matching")

    def compose(self, data: StepData) -> Lesson:
        """Give every expert trace its advantage in the group that it joins."""
        expert_of = data.expert_of()
        experts = [
            replace(
                expert_of[group.prompt.id],
                weight=advantages_with_expert(group.valid(), normalize_by_std=True)[1],
            )
            for group in data.groups
            if group.prompt.id in expert_of
        ]
        num_tokens = sum(len(d.response_ids) for d in experts)
        # `shaped` divides by rows * max_tokens; a token mean is meant here.
        share = len(experts) * self.max_tokens / max(1, num_tokens)
        terms = (
            DemonstrationTerm(
                "nll", self.section.sft_weight, is_entropy_scaled=True, is_weighted=False
            ),
            DemonstrationTerm("shaped", share),
        )
        objective = Objective(rl_weight=1.0, sft_weight=1.0, terms=terms)
        samples = to_token_samples(data.groups, self.estimator.advantages)
        return Lesson(samples, experts, objective)
