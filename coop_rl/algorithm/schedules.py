r"""Learning rates, and BRIDGE's lambda, over the steps of a run.

    factor_k = (k + 1) / W                                   k < W: warm-up
             = 1                                             constant
             = f + (1 - f) (1 - p)                           linear
             = f + (1 - f) (1 + cos(pi p)) / 2               cosine (SGDR, arXiv 1608.03983, eq. 5)

with p = (k - W) / (K - W) the progress after the warm-up, W its length, K the run's, and f the
share of the rate that is left at the end.
"""

import math

from coop_rl.config.optimizer import OptimizerSection
from coop_rl.types import Objective


def rate_factor(step: int, num_steps: int, warmup: int, schedule: str, final: float) -> float:
    """Return what the rate is multiplied by at step `step`."""
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    progress = (step - warmup) / max(1, num_steps - warmup)
    if schedule == "linear":
        return final + (1.0 - final) * (1.0 - progress)
    if schedule == "cosine":
        return final + (1.0 - final) * (1.0 + math.cos(math.pi * progress)) / 2.0
    return 1.0


def rate_at(section: OptimizerSection, step: int, num_steps: int) -> float:
    """Return an optimiser's rate at meta-step `step` of `num_steps`."""
    factor = rate_factor(
        step, num_steps, section.warmup_steps, section.lr_schedule, section.lr_final
    )
    return section.lr * factor


def theta_rate(section: OptimizerSection, objective: Objective, step: int, num_steps: int) -> float:
    """Return the rate of theta at a meta-step: the objective's own, or the schedule's, scaled."""
    if objective.lr is not None:
        return objective.lr
    return rate_at(section, step, num_steps) * objective.lr_scale


def scheduled_mix(step: int, num_steps: int, schedule: str, mix: float) -> float:
    """Return lambda_k where the meta-controller does not choose it."""
    progress = (step + 0.5) / num_steps
    if schedule == "linear":
        return progress
    if schedule == "cosine":
        return (1.0 - math.cos(math.pi * progress)) / 2.0
    return mix
