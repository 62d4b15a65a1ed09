"""Section `recovery`: what a run does about processes that die or hang."""

from typing import Self

from pydantic import Field, model_validator

from coop_rl.config.base import Section

LONGEST_BACKOFF_S = 60.0
"""Doubling ends here: who waits longer loses more than another try costs."""


class RecoverySection(Section):
    """How many losses a run survives, by who is lost, before it stops; and when a hang is one."""

    restarts: int = Field(3, ge=0)
    """How often, within `window` steps, the run goes on from its newest checkpoint after a learner,
    the meta-controller, the driver or Ray itself was lost; 0: it ends with the first loss."""
    rollout_restarts: int = Field(5, ge=0)
    """How often, within `window` steps, lost rollout actors are replaced while the run goes on."""
    reward_restarts: int = Field(10, ge=0)
    """How often, within `window` steps, lost reward actors are replaced while the run goes on."""
    snapshot_every: int = Field(0, ge=0)
    """Steps between snapshots: checkpoints that only the newest is kept of, beside
    `checkpoint.keep`, so that a restart repeats few steps. One is left out where it would take more
    than 5 % of the time since the last save; 0: none."""
    window: int = Field(50, ge=1)
    """Steps over which losses count."""
    backoff_s: float = Field(1.0, ge=0)
    """Seconds before the first restart within `window` steps, and before the first replacement of
    a rollout or reward actor; doubled with each further one of its kind, up to a minute."""
    silent_after_s: float = Field(20.0, gt=0)
    """Seconds without an answer from an actor, or with a stopped process of it, after which a line
    tells of it and the stacks of all actors go to their logs. Actors answer also while they are
    busy, and are asked every 5 s."""
    hung_after_s: float = Field(45.0, ge=0)
    """Seconds without an answer after which an actor that neither computes nor waits for a disk is
    killed and counts as lost; one with a stopped process is after `silent_after_s`. 0: no actor is
    asked or killed, and a hang is seen after `placement.call_timeout_s`."""

    def pause_s(self, num_losses: int) -> float:
        """Return the seconds before what was lost starts again, for the n-th time in the window."""
        doubled = self.backoff_s * 2.0 ** (num_losses - 1)
        return min(doubled, max(self.backoff_s, LONGEST_BACKOFF_S))

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if 0 < self.hung_after_s <= self.silent_after_s:
            raise ValueError(
                f"hung_after_s must be above silent_after_s {self.silent_after_s:g}, or 0, got "
                f"{self.hung_after_s:g}"
            )
        return self
