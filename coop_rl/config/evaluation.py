"""Section `evaluation`: what is measured before, during and after training."""

from pydantic import Field

from coop_rl.config.base import Section
from coop_rl.config.data import DataSource


class EvaluationSection(Section):
    """Held-out accuracy before, during and after training."""

    name: str = "held_out"
    """Appears in metric names: eval/<name>/pass@1."""
    data: DataSource
    """Held-out prompts."""
    num_items: int = Field(256, ge=1)
    """Rows used, from the top of the file."""
    num_samples: int = Field(4, ge=1)
    """k of avg@k, sampled at `temperature`."""
    temperature: float = Field(1.0, gt=0)
    """Of the sampled evaluation; pass@1 is greedy."""
    every: int = Field(0, ge=0)
    """Steps between evaluations; 0: only before and after."""
    num_demonstrations: int | None = Field(None, ge=0)
    """Demonstrations kept from training (the last rows) to measure their NLL at every evaluation;
    null: none, but 64 (at most a tenth of the rows) for `cold_start`, whose switch needs them."""
