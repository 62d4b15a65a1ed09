"""What goes into a verifier and what comes out; crosses the border of the pool's processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Answer:
    """One response to judge."""

    text: str
    """The response as the model wrote it; hostile until proven otherwise."""
    gold: str
    details: str = ""
    """What else the verifier needs, as JSON (`Prompt.details`)."""
    verifier: str = ""
    """Its verifier's name; empty: the one of `reward.kind`."""
    num_tokens: int = 0
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class VerifierSettings:
    """The part of config section `reward` that verifiers read, without the config's imports."""

    marker: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verifier's judgement."""

    value: float
    """Reward, finite."""
    is_correct: bool
    status: Literal["scored", "timeout", "crashed"] = "scored"
    answer: str = ""
    """What was read as the final answer, in a normal form; empty: none was found."""
    has_format: bool = True
    """Whether the response has the form the answer was asked for in."""
    parts: tuple[tuple[str, float], ...] = ()
    """(name, value before its weight) of the terms of a weighted sum."""


TIMEOUT = Verdict(0.0, False, "timeout", has_format=False)
CRASHED = Verdict(0.0, False, "crashed", has_format=False)

Verify = Callable[[Answer, VerifierSettings], Verdict]
"""A module-level function, because processes find it by name."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A way to judge, and the shortest response it must call right."""

    verify: Verify
    render: Callable[[str, VerifierSettings], str]
    """(gold, settings) -> a right response; the canary."""
