r"""`prefix`: RL, where responses to unsolved prompts begin with a part of a demonstration.

    y = d_{1..m} o y',    y' ~ pi(. | x, d_{1..m})        m = floor(s_k |d|),  d the demonstration
    s_k = share * max(0, 1 - k / K)                       K = anneal_steps
    L = L_RL over all groups, whose tokens are those of y' alone

A prompt whose responses were all wrong is remembered with its demonstration, and the next time it
comes up all its responses begin with d_{1..m}. The verifier reads y whole; the given tokens are
context and no loss touches them. That group forgets the prompt: the time after, it is on its own
again, so that a prompt which stays unsolved is guided every other time; a run of a single epoch
guides nothing and is refused. An update follows what the policy sampled itself, from states on the
demonstration's way that it would not reach; as s falls to 0, it has to reach them.

Source: POPE, arXiv 2601.18779 (unsolved problems with and without a part of the solution, 1 : 1,
at most a quarter of it; GRPO), and QuestA, arXiv 2507.13266 (half of the solution, then a
quarter). Both write the part into the question and choose the problems before training; here it is
the response's own start, as in reverse curricula (R3, arXiv 2402.05808), and the policy's failures
choose. Read in abstracts and others' summaries; annealing to 0 and forgetting are ours.
"""

import math
from collections.abc import Mapping
from typing import Any

from coop_rl.algorithm.methods.base import Method, Needs, StepData, to_token_samples
from coop_rl.config import RunConfig
from coop_rl.config.rivals import PrefixMethod
from coop_rl.types import Guidance, Lesson, Objective


class Prefix(Method[PrefixMethod]):
    """RL, with a memory of the prompts that were failed."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._anneal_steps = self.section.anneal_steps or config.run.num_steps
        self._failed: dict[str, tuple[int, ...]] = {}
        """Prompt -> the response of its demonstration."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_RL."""
        return Objective(rl_weight=1.0, sft_weight=0.0)

    def needs(self, step: int) -> Needs:
        """Return rollouts, with s_k of the demonstration given where the prompt was failed."""
        share = self.section.share * max(0.0, 1.0 - step / self._anneal_steps)
        given = {
            prompt: response_ids[: math.floor(share * len(response_ids))]
            for prompt, response_ids in self._failed.items()
        }
        return Needs(rollouts=True, demonstrations="matching", given=given)

    def compose(self, data: StepData) -> Lesson:
        """Train on all rollouts; remember what failed on its own, forget what was given a start."""
        expert_of = data.expert_of()
        for group in data.groups:
            prompt = group.prompt
            self._failed.pop(prompt.id, None)
            has_failed = not any(reward.is_correct for reward in group.rewards)
            if has_failed and not prompt.given_ids and prompt.id in expert_of:
                self._failed[prompt.id] = expert_of[prompt.id].response_ids
        samples = to_token_samples(data.groups, self.estimator.advantages)
        return Lesson(samples, (), self.objective(data.step))

    def state(self) -> dict[str, Any]:
        """Return the memory."""
        return {"failed": {prompt: list(ids) for prompt, ids in self._failed.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with it."""
        self._failed = {prompt: tuple(ids) for prompt, ids in state["failed"].items()}
