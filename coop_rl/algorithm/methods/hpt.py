r"""`hpt`: what the policy fails is taught, what it can do is reinforced.

For a prompt with s of n responses right:
    s <= gate    its rollouts are dropped; its demonstration is trained on
    s >  gate    its rollouts are trained on; its demonstration is not
    L = L_RL(kept rollouts) + coef * L_SFT(chosen demonstrations)

A prompt without a demonstration keeps its rollouts. Each term has its own global count, so the few
demonstrations of a step weigh as much as many would; the paper's sum over prompts lets them fade
with their number. The authors' code also takes the mean over a micro-batch's demonstrations alone.

Source: Hybrid Post-Training, arXiv 2509.04419, section 2.4, equations 8 to 13. Paper: gate 0 (2 of
8 for LLaMA), rate 5e-6, RL by Dr. GRPO, the default of `method.rl` here; coef 1 (0.3 for a 1.5B
model) and the weight of the entropy bonus, 0.001, are from the authors' scripts. Their bonus is the
mean entropy over a micro-batch's rollouts and demonstrations together; here it is that over the
rollouts, as in every L_RL.
"""

from coop_rl.algorithm.methods.base import Method, StepData, to_token_samples
from coop_rl.config.rivals import HptMethod
from coop_rl.types import Demonstration, Guidance, Lesson, Objective, ScoredGroup


class Hpt(Method[HptMethod]):
    """RL or SFT, chosen prompt by prompt."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_RL + coef * L_SFT."""
        return Objective(rl_weight=1.0, sft_weight=self.section.coef)

    def compose(self, data: StepData) -> Lesson:
        """Choose for every prompt what is trained on."""
        expert_of = data.expert_of()
        kept: list[ScoredGroup] = []
        taught: list[Demonstration] = []
        for group in data.groups:
            expert = expert_of.get(group.prompt.id)
            num_right = sum(reward.is_correct for reward in group.rewards)
            if expert is not None and num_right <= self.section.gate:
                taught.append(expert)
            else:
                kept.append(group)
        samples = to_token_samples(kept, self.estimator.advantages)
        return Lesson(samples, taught, self.objective(data.step))
