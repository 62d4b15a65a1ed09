"""What goes into a verifier and what comes out; crosses the border of the pool's processes."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from coop_rl.types import Reward


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to judge."""

    text: str
    """The response as the model wrote it; hostile until proven otherwise."""
    gold: str
    """The right answer, as the data gives it."""
    details: str = ""
    """What else the verifier needs, as JSON (`Prompt.details`)."""
    verifier: str = ""
    """Its verifier's name; empty: the one of `reward.kind`."""
    num_tokens: int = 0
    """Length of the response."""
    is_truncated: bool = False
    """Whether the token limit ended it."""
    is_thinking: bool = False
    """Whether its prompt ends in an open <think>, so that the response begins inside it."""
    prompt: str = ""
    """What was asked, after the templates."""
    columns: str = ""
    """All columns of the prompt's row as JSON; see `row`."""
    batch_results: tuple[tuple[str, object], ...] = ()
    """(location, what it returned or raised) of functions that take a batch; filled in the pool."""

    @property
    def row(self) -> dict[str, Any]:
        """All columns of the prompt's row, by name; empty where there is none."""
        row: dict[str, Any] = json.loads(self.columns or "{}")
        return row

    @property
    def whole_text(self) -> str:
        """The response, with the <think> that its prompt opened."""
        return "<think>" + self.text if self.is_thinking else self.text


@dataclass(frozen=True, slots=True)
class TermSettings:
    """One weighted term besides the verifier's; fields of other kinds stay empty."""

    name: str
    weight: float
    kind: Literal["format", "length", "python"]
    style: str = ""
    pattern: str = ""
    function: str = ""
    free_tokens: int = 0
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """Config section `reward` as workers need it, without the config's imports."""

    marker: str
    function: str = ""
    """`module:function`; verifier `python` only."""
    kind: str = ""
    """Name of the verifier of answers that name none."""
    weight: float = 1.0
    """Weight of the verifier's value in the reward."""
    terms: tuple[TermSettings, ...] = ()


TIMEOUT = Reward(0.0, False, "timeout", has_format=False)
CRASHED = Reward(0.0, False, "crashed", has_format=False)

Verify = Callable[[Answer, VerifierSettings], Reward]
"""A module-level function, because processes find it by name."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A way to judge, and the shortest response it must call right."""

    verify: Verify
    render: Callable[[str, VerifierSettings], str] | None
    """(gold, settings) -> a right response, the canary; None where no response is known to be."""
    modules: tuple[str, ...] = ()
    """What it imports when it is first used; a worker does so before its limits begin."""
    canary_gold: str = "42"
    """A gold answer of its kind."""
    canary_details: str = ""
    """What else it needs with that one."""
