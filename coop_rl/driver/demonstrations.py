"""The loop's role `Demonstrations`: the rows of a step, in seeded order.

Called by `algorithm.train`.
"""

from collections.abc import Sequence
from dataclasses import replace

from coop_rl.config import RunConfig
from coop_rl.config.method_section import WhichDemonstrations
from coop_rl.config.sizes import has_scaffold
from coop_rl.data.collection import Mixture
from coop_rl.types import Demonstration, ScoredGroup

ORDER_STREAM = 1
"""Order stream of the demonstrations; prompts use 0, so equal files are not walked in step."""


class Demonstrations:
    """Implements `algorithm.roles.Demonstrations`: the rows of a step, the same after a resume."""

    def __init__(self, config: RunConfig, demonstrations: Mixture[Demonstration]) -> None:
        self.num_rows = len(demonstrations)
        self._demonstrations = demonstrations
        self._of_prompt: dict[tuple[int, ...], Demonstration] = {}
        if config.method.demonstrations == "matching" or has_scaffold(config):
            for index in reversed(range(len(demonstrations))):
                self._of_prompt[demonstrations[index].prompt_ids] = demonstrations[index]
        per_step, seed = config.demonstrations.per_step, config.run.seed
        self._order = demonstrations.order(per_step, seed, ORDER_STREAM)

    def next_batch(
        self,
        step: int,
        which: WhichDemonstrations,
        groups: Sequence[ScoredGroup],
    ) -> Sequence[Demonstration]:
        """Return none, the step's own, or those of the groups' prompts, under the prompts' ids."""
        if which == "none":
            return ()
        if which == "next":
            return [self._demonstrations[i] for i in self._order.batch(step)]
        prompts = [group.prompt for group in groups]
        return [
            replace(self._of_prompt[prompt.token_ids], id=prompt.id)
            for prompt in prompts
            if prompt.token_ids in self._of_prompt
        ]
