"""AdamW, its learning rate over the run, and clipping: what `learner` and `adapter` share."""

from typing import Literal

from pydantic import Field

from coop_rl.config.base import Section


class OptimizerSection(Section):
    """AdamW, its learning rate over the run, and clipping."""

    lr: float = Field(1e-6, ge=0)
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly to `lr`."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate then falls to `lr_final * lr` at the run's end; `constant`: not at
    all."""
    lr_final: float = Field(0.0, ge=0.0, le=1.0)
    """Share of `lr` that is left at the run's end; `linear` and `cosine` only."""
    max_grad_norm: float = Field(1.0, gt=0)
    """A gradient (of theta the fused one) with a larger norm is scaled down to this one."""
