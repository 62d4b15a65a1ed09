"""Versions are data: every rollout, gradient and push carries the one it was made with."""

from dataclasses import dataclass
from typing import Literal

Branch = Literal["joint", "shadow"]
"""`joint` trains theta on SFT and RL; `shadow` trains theta-hat on RL alone."""


@dataclass(frozen=True, slots=True, order=True)
class PolicyVersion:
    """How often theta and the adapter w have been updated; both count skipped updates too."""

    theta: int
    """Optimiser steps taken by the base weights of a branch."""
    adapter: int
    """Pushes of w received from the meta-controller."""

    def next(self) -> "PolicyVersion":
        """Return the version after one meta-step (both advance together)."""
        return PolicyVersion(self.theta + 1, self.adapter + 1)

    def __str__(self) -> str:
        return f"theta{self.theta}.adapter{self.adapter}"

    @classmethod
    def parse(cls, text: str) -> "PolicyVersion":
        """Read what `str` wrote; the form in which vLLM stamps it on sampled tokens."""
        theta, adapter = text.split(".")
        return cls(int(theta.removeprefix("theta")), int(adapter.removeprefix("adapter")))
