"""Section `reward`: how responses are judged."""

from typing import Literal

from pydantic import Field

from coop_rl.config.base import Section


class RewardSection(Section):
    """The verifier, run in a pool of processes."""

    kind: Literal["exact", "number"] = "exact"
    """`exact`: the text after the last marker equals the gold answer; `number`: the last number of
    the response equals it as a number."""
    marker: str = Field("#", min_length=1)
    """What precedes the final answer in a response; `exact` only."""
    num_workers: int = Field(1, ge=1)
    """Processes."""
    time_limit_s: float = Field(5.0, gt=0)
    """Hard limit for one response; its process is killed after it."""
    shuffle: bool = False
    """Control experiment: hand each prompt's rewards to another prompt, so RL learns nothing."""
