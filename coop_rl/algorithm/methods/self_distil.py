r"""`self_distil`: the policy that sees a demonstration teaches the policy that does not.

    y ~ pi(. | x)            the student's own rollouts; rewards are reported and not learned from
    L = 1/T sum_t KL( pi(. | x, y_<t) || sg[ pi(. | x, d, y_<t) ] )

d is the prompt's demonstration, written into the prompt by `template`; sg is stop-gradient, T the
tokens of all rollouts. The gradient of each term is estimated at the sampled token,
    rho_t sg[ log pi(y_t | x, y_<t) - log pi(y_t | x, d, y_<t) ] grad log pi(y_t | x, y_<t)
which is unbiased for y_t ~ pi and leaves out what a token does to later ones (`kl`, k2); rho is
pi / pi_old times the engine's mismatch weight. The reported loss is the mean of the bracket, an
estimate of the KL in nats. Teacher and student are the same weights at every step: one forward pass
more over the rollouts, with the demonstration before them. A prompt without a demonstration is its
own teacher: its term is 0, and its tokens count in T.

Source: SDFT, arXiv 2601.19897: the reverse KL on the student's rollouts and the template (both
also in public copies of the authors' code, idanshen/Self-Distillation). Three differences: its
teacher is an exponential average of the student (rate 0.01 a step); it sums each term over the
vocabulary, with less variance; and that code skips the first three tokens. By others' reading its
default divergence is the forward KL; here it is the paper's. SRPO, arXiv 2604.02288, distils wrong
responses only, weighed by entropy, and leaves right ones to GRPO: not done here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coop_rl.algorithm.estimators import RlEstimator
from coop_rl.algorithm.estimators.base import Advantages, RlLoss, RolloutCounts, RolloutTokens
from coop_rl.algorithm.kl import kl_loss
from coop_rl.algorithm.methods.base import Method, Needs, StepData, to_token_samples
from coop_rl.config.rivals import SelfDistilMethod
from coop_rl.types import Guidance, Lesson, Objective, ScoredGroup


@dataclass(frozen=True, slots=True)
class Distillation(RlEstimator):
    """The reverse KL to the teacher, on the student's rollouts."""

    needs_teacher = True

    def advantages(self, groups: Sequence[ScoredGroup]) -> Advantages:
        """Return zeros: rewards are not learned from."""
        return [np.zeros(len(group.rewards)) for group in groups]

    def loss(self, tokens: RolloutTokens, counts: RolloutCounts) -> RlLoss:
        """Return a micro-batch's share, whose value is the estimate of the KL."""
        assert tokens.teacher_log_prob_T is not None, "distillation needs the teacher's log-probs"
        log_prob_T = tokens.log_prob_T.detach()
        weight_T = tokens.mismatch_T * (log_prob_T - tokens.old_log_prob_T).exp()
        value = (weight_T * (log_prob_T - tokens.teacher_log_prob_T)).sum() / counts.tokens
        surrogate = kl_loss(
            "k2",
            tokens.log_prob_T,
            tokens.teacher_log_prob_T,
            weight_T,
            tokens.row_T,
            len(tokens.advantage_B),
            counts.tokens,
        )
        return RlLoss(surrogate - surrogate.detach() + value, tokens.length_B.new_zeros(()))


class SelfDistil(Method[SelfDistilMethod]):
    """Distillation at every step."""

    def make_estimator(self) -> RlEstimator:
        """Return the loss of the rollouts."""
        return Distillation()

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return the loss of the rollouts alone."""
        return Objective(rl_weight=1.0, sft_weight=0.0)

    def needs(self, step: int) -> Needs:
        """Return rollouts, and their prompts' demonstrations."""
        return Needs(rollouts=True, demonstrations="matching")

    def compose(self, data: StepData) -> Lesson:
        """Tell every rollout what its teacher sees."""
        teacher_of = {name: d.teacher_prompt_ids for name, d in data.expert_of().items()}
        prompts = [group.prompt for group in data.groups for _ in group.rollouts]
        plain = to_token_samples(data.groups, self.estimator.advantages)
        samples = [
            replace(
                sample,
                is_valid=True,  # rewards are not learned from
                teacher_prompt_ids=teacher_of.get(prompt.id, prompt.token_ids),
            )
            for sample, prompt in zip(plain, prompts, strict=True)
        ]
        return Lesson(samples, (), self.objective(data.step))
