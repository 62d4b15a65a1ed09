"""Section `recovery`: what a run does about processes that die or hang."""

from pydantic import Field

from coop_rl.config.base import Section


class RecoverySection(Section):
    """How many losses a run survives, by who is lost; then it stops and names them all."""

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
    """Seconds before the first restart within `window` steps; doubled with each further one."""
