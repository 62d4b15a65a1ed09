"""What a learner needs of the config."""

from dataclasses import dataclass

from coop_rl.algorithm.methods import build_method
from coop_rl.algorithm.schedules import rate_factor
from coop_rl.config import RunConfig
from coop_rl.config.sizes import learns_by_lookahead
from coop_rl.learner.passes import LossSettings
from coop_rl.types import Branch


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """Rates, losses and what is measured."""

    lr: float
    warmup_steps: int
    grad_stats_every: int
    loss: LossSettings
    schedule: str = "constant"
    lr_final: float = 0.0
    num_steps: int = 1
    """Meta-steps of the run, for the schedule."""
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    has_lookahead: bool = False
    """Whether guidance is learned from what an update does to the next batch's return."""
    has_example_lookahead: bool = False
    """Whether that is known for every demonstration, too."""
    is_gradient_shared: bool = True
    """Whether both branches' RL loss is that of the same rollouts."""
    offloaded: frozenset[Branch] = frozenset()
    """Branches whose moments are in host memory but for the update."""

    @classmethod
    def from_config(cls, config: RunConfig) -> "LearnerSettings":
        """Take the sections `learner`, `method`, `meta` and `shadow`."""
        section, rl = config.learner, config.method.rl_settings
        away: dict[Branch, bool] = {
            "joint": section.offload,
            "shadow": section.offload or config.shadow.offload,
        }
        loss = LossSettings(
            estimator=build_method(config).estimator,
            ratio_cap=rl.ratio_cap,
            mismatch_cap=rl.mismatch_cap,
            kl=rl.kl,
            entropy_weight=rl.entropy_weight,
            max_tokens=config.rollout.max_tokens,
        )
        return cls(
            lr=section.lr,
            warmup_steps=section.warmup_steps,
            grad_stats_every=section.grad_stats_every,
            loss=loss,
            schedule=section.lr_schedule,
            lr_final=section.lr_final,
            num_steps=config.run.num_steps,
            max_grad_norm=section.max_grad_norm,
            betas=section.betas,
            has_lookahead=learns_by_lookahead(config),
            has_example_lookahead=learns_by_lookahead(config) and config.meta.per_example,
            is_gradient_shared=config.shadow.rollouts == "shared",
            offloaded=frozenset(branch for branch, is_away in away.items() if is_away),
        )

    def lr_at(self, step: int) -> float:
        """Return the rate of a meta-step."""
        factor = rate_factor(step, self.num_steps, self.warmup_steps, self.schedule, self.lr_final)
        return self.lr * factor
