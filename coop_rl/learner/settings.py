"""What a learner needs of the config."""

from dataclasses import dataclass

from coop_rl.algorithm.methods import build_method
from coop_rl.config import RunConfig
from coop_rl.config.optimizer import OptimizerSection
from coop_rl.config.roles import LearnerSection
from coop_rl.config.sizes import (
    amplifies_bracket,
    has_one_step_shadow,
    has_scaffold,
    learns_by_lookahead,
    scaffold_fit_steps,
)
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
    copies_moments: bool = False
    """Whether a re-sync hands theta's moments to the shadow, which else keeps its own."""
    gain_every: int = 0
    """Meta-steps between two gains that joint measures by itself; 0: it measures none."""
    is_rounded: bool = False
    """Whether the model computes in fewer bits than its masters have."""
    scaffold: OptimizerSection | None = None
    """The adapter's optimiser where w is a scaffold, off in theta's passes; None: it is none."""
    scaffold_fit_steps: int = 0
    """Steps in which learners fit it by themselves; 0: the meta-controller does."""
    amplifies: bool = False
    """Whether the bracket is taken over a longer way, because rounding hides theta-hat - theta."""
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
            gain_every=config.gain.every if has_one_step_shadow(config) else 0,
            is_rounded=config.model.dtype != "float32",
            scaffold_fit_steps=scaffold_fit_steps(config),
            scaffold=config.adapter if has_scaffold(config) else None,
            amplifies=amplifies_bracket(config),
            copies_moments=config.shadow.optimizer_state == "copy",
            offloaded=frozenset(branch for branch, is_away in away.items() if is_away),
        )
