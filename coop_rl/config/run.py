"""Sections of the run itself: `run`, `model`, `checkpoint`, `observability`."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from coop_rl.config.base import Section


class RunSection(Section):
    """Name, length and seed of the run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, whose directory is `<dir>/<name>`."""
    dir: str = "runs"
    """Parent of the run directory."""
    num_steps: int = Field(ge=1)
    """Number of meta-steps."""
    seed: int = Field(0, ge=0)
    """Seed of data order, sampling and the initial w."""


class ModelSection(Section):
    """The base model."""

    path: str
    """A Hugging Face folder, or a hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the learners; master weights are always fp32."""
    max_length: int | None = Field(None, ge=2)
    """Context length in tokens; null: the model's own."""


class CheckpointSection(Section):
    """When checkpoints are written, and which of them are kept."""

    every: int = Field(50, ge=0)
    """Steps between checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept."""
    best: str | None = None
    """Metric of an evaluation, such as `eval/sums/pass@1`, whose best checkpoint is kept beside the
    newest ones (the highest value is the best, of `.../nll` the lowest); null: none."""


class ObservabilitySection(Section):
    """What is written besides metrics.jsonl."""

    tensorboard: bool = True
    """Write events/ for TensorBoard."""
    samples_per_step: int = Field(2, ge=0)
    """Rollouts written to samples.jsonl at each step."""
    profile_steps: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """First and last step to record in profile/: a Perfetto trace, and where the seconds went."""
