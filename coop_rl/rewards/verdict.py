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


TIMEOUT = Verdict(0.0, False, "timeout")
CRASHED = Verdict(0.0, False, "crashed")

Verify = Callable[[str, str, VerifierSettings], Verdict]
"""(text, gold, settings) -> verdict; a module-level function, because processes find it by name."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A way to judge, and the shortest response it must call right."""

    verify: Verify
    render: Callable[[str, VerifierSettings], str]
    """(gold, settings) -> a right response; the canary."""
