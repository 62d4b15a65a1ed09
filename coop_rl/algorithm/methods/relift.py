r"""`relift`: RL, and a step of SFT whenever enough prompts were beyond the policy.

    theta <- theta + optimiser( g^RL )           LUFFY's on-policy loss, its entropy bonus
    prompts with all n responses wrong --> buffer of their demonstrations, first in first out
    buffer holds B:  the next step is
    theta <- theta + optimiser'( g^SFT ) on the B oldest      L = NLL - alpha H, token means

optimiser' has moments of its own. A failed prompt without a demonstration is not buffered; one
that fails again is buffered again.

Source: ReLIFT, arXiv 2506.07527, and its authors' code (TheRoadQaQ/ReLIFT), whose settings are
B = 128, alpha 0.001, rate 1e-6 for both optimisers. Two differences to that code: there the SFT
step follows the RL step within one iteration, here it is a meta-step of its own, so that steps of
all methods count alike; and there the newest are trained on first.
"""

from collections.abc import Mapping
from typing import Any

from coop_rl.algorithm.estimators import RlEstimator
from coop_rl.algorithm.methods.base import Method, Needs, StepData, to_token_samples
from coop_rl.algorithm.methods.luffy import OnPolicy
from coop_rl.config import RunConfig
from coop_rl.config.rivals import ReliftMethod
from coop_rl.types import Demonstration, Guidance, Lesson, Objective


class Relift(Method[ReliftMethod]):
    """RL, with a buffer of demonstrations for the prompts that the policy fails."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._buffer: list[Demonstration] = []

    def make_estimator(self) -> RlEstimator:
        """Return LUFFY's loss of the rollouts."""
        return OnPolicy(self.max_tokens)

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return SFT where the buffer is full, else RL."""
        if not self._is_full:
            return Objective(rl_weight=1.0, sft_weight=0.0)
        return Objective(
            rl_weight=0.0,
            sft_weight=1.0,
            sft_entropy_weight=self.section.entropy_weight,
            lr_scale=self.section.sft_lr_scale,
            has_second_optimizer=True,
        )

    def needs(self, step: int) -> Needs:
        """Return rollouts with their demonstrations, or nothing but the buffer."""
        if self._is_full:
            return Needs(rollouts=False, demonstrations="none")
        return Needs(rollouts=True, demonstrations="matching")

    def compose(self, data: StepData) -> Lesson:
        """Train on the buffer's oldest, or on the rollouts, and buffer what failed."""
        objective = self.objective(data.step)
        if self._is_full:
            size = self.section.buffer_size
            oldest, self._buffer = self._buffer[:size], self._buffer[size:]
            return Lesson((), oldest, objective)
        expert_of = data.expert_of()
        for group in data.groups:
            has_failed = not any(reward.is_correct for reward in group.rewards)
            if has_failed and group.prompt.id in expert_of:
                self._buffer.append(expert_of[group.prompt.id])
        samples = to_token_samples(data.groups, self.estimator.advantages)
        return Lesson(samples, (), objective)

    @property
    def _is_full(self) -> bool:
        return len(self._buffer) >= self.section.buffer_size

    def state(self) -> dict[str, Any]:
        """Return the buffer."""
        return {
            "buffer": [
                [d.id, list(d.prompt_ids), list(d.response_ids), d.source] for d in self._buffer
            ]
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Refill the buffer."""
        self._buffer = [
            Demonstration(name, tuple(prompt_ids), tuple(response_ids), source)
            for name, prompt_ids, response_ids, source in state["buffer"]
        ]
