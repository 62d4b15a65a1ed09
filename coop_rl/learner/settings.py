"""What a learner needs of the config."""

from dataclasses import dataclass

from coop_rl.algorithm.methods import build_method
from coop_rl.config import RunConfig
from coop_rl.config.roles import LearnerSection
from coop_rl.config.sizes import learns_by_lookahead
from coop_rl.learner.passes import LossSettings
from coop_rl.types import Branch


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """Rates, losses and what is measured."""

    section: LearnerSection
    """Of the config: optimiser and cadence of statistics."""
    loss: LossSettings
    num_steps: int = 1
    """Meta-steps of the run, for the schedule."""
    has_lookahead: bool = False
    """Whether guidance is learned from what an update does to the next batch's return."""
    has_example_lookahead: bool = False
    """Whether that is measured for every single demonstration as well."""
    is_gradient_shared: bool = True
    """Whether both branches' RL loss is that of the same rollouts."""
    offloaded: frozenset[Branch] = frozenset()
    """Branches whose moments are in host memory except during the update."""

    @classmethod
    def from_config(cls, config: RunConfig) -> "LearnerSettings":
        """Take the sections `learner`, `method`, `meta` and `shadow`."""
        section, has_lookahead = config.learner, learns_by_lookahead(config)
        away: dict[Branch, bool] = {
            "joint": section.offload,
            "shadow": section.offload or config.shadow.offload,
        }
        return cls(
            section=section,
            loss=LossSettings(
                estimator=build_method(config).estimator,
                rl=config.method.rl_settings,
                max_tokens=config.rollout.max_tokens,
            ),
            num_steps=config.run.num_steps,
            has_lookahead=has_lookahead,
            has_example_lookahead=has_lookahead and config.meta.per_example,
            is_gradient_shared=config.shadow.rollouts == "shared",
            offloaded=frozenset(branch for branch, is_away in away.items() if is_away),
        )
