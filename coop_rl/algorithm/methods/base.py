"""What the loop asks of a method."""

from collections.abc import Callable
from dataclasses import dataclass

from coop_rl.algorithm.gain import GainSettings
from coop_rl.types import Objective


@dataclass(frozen=True, slots=True)
class Method:
    """A way of combining SFT and RL, as data plus one function of the step."""

    uses_shadow: bool
    """Whether the branch `rl_only` exists."""
    normalize_by_std: bool
    """Advantage estimator: divide by the group's standard deviation."""
    gain: GainSettings
    objective: Callable[[int], Objective]
    """Weights of the loss terms at a step; a step samples and reads only what has a weight."""
