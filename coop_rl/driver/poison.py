"""Prompts that end every engine they are sampled on: set aside by name, so that a run goes on.

    engine lost --> its groups are sampled again, and each has one loss more
                        two:    the next try has an engine to itself: nobody else is to blame
                        three:  the prompt is set aside

Such a prompt is not sampled any more, by whoever asks. In the place of its responses stand some of
one token that could not be scored: they do not train, and evaluations count them as wrong. Called
by `driver.generation`; one object serves all generations of a run, and a run that starts again
tries once more.
"""

from collections.abc import Callable

from coop_rl.metric_names import RECOVERED
from coop_rl.rewards.verdict import CRASHED
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, Rollout, SamplingSettings, ScoredGroup

MOST_LOSSES = 3
"""Engines that may be lost in a row while they sample one and the same group."""


class Poison:
    """Which prompts were set aside, by source and id."""

    def __init__(
        self, stages: Stages | None = None, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """Count in `stages`, and tell `report` in a line."""
        self._stages = stages or Stages()
        self._report = report
        self._names: set[tuple[str, str]] = set()

    def __contains__(self, prompt: Prompt) -> bool:
        """Whether a prompt was set aside."""
        return (prompt.source, prompt.id) in self._names

    def set_aside(self, prompt: Prompt) -> None:
        """Let a prompt be sampled no more."""
        self._names.add((prompt.source, prompt.id))
        self._stages.count(f"{RECOVERED}poisoned_prompts", 1)
        source = f" of {prompt.source}" if prompt.source else ""
        self._report(
            f"prompt {prompt.id}{source} is set aside: {MOST_LOSSES} engines in a row were lost "
            "while they sampled it, the last one it had to itself; its responses count as crashed"
        )


def stand_in(prompt: Prompt, sampling: SamplingSettings, version: PolicyVersion) -> ScoredGroup:
    """Return what counts as sampled from a prompt that was set aside."""
    rollout = Rollout(prompt.token_ids[-1:], (0.0,), "", is_truncated=False, version=version)
    num = sampling.num_samples
    return ScoredGroup(prompt, (rollout,) * num, (CRASHED,) * num)
