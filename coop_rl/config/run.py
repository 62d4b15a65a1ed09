"""Sections of the run itself: `run`, `model`, `checkpoint`, `observability`."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from coop_rl.config.base import NAME, Section
from coop_rl.redaction import SECRET_NAME

TrackerKind = Literal[
    "wandb", "mlflow", "trackio", "swanlab", "comet_ml", "aim", "clearml", "dvclive"
]
TARGET_SCHEMES = ("file", "s3", "gs", "memory")
"""What a URL of `checkpoint.target` may begin with; the last one is lost with the process."""


class RunSection(Section):
    """Name, length and seed of the run."""

    name: str = Field(pattern=NAME)
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
    beside_training: bool | None = None
    """Write while training goes on: each learner rank copies its share (12 bytes a weight, divided
    by the ranks) to host memory first. The last checkpoint, and one after a request to stop, are
    waited for. null: where learners have GPUs; on CPUs the copy would lie in the same memory."""
    target: str | None = None
    """Where every checkpoint is copied to as well, in a folder of the run's name: a path, `s3://`
    or `gs://` with a bucket and perhaps a folder (docs/recovery.md); null: nowhere. Keys come from
    the environment, never from here."""

    @field_validator("target")
    @classmethod
    def _check_target(cls, target: str | None) -> str | None:
        scheme, separator, place = (target or "").partition("://")
        if separator and (scheme not in TARGET_SCHEMES or not place.strip("/")):
            allowed = ", ".join(f"{name}://..." for name in TARGET_SCHEMES[:-1])
            raise ValueError(f"must be a path or one of {allowed}")
        return target


class ObservabilitySection(Section):
    """What is written besides metrics.jsonl."""

    tensorboard: bool = True
    """Write events/ for TensorBoard."""
    trackers: list[TrackerKind] = Field([])
    """Experiment trackers that get every figure of metrics.jsonl and the config as well, such as
    `[wandb, mlflow]` (docs/metrics.md); each needs its package."""
    project: str = "coop-rl"
    """Project (MLflow: experiment) that the trackers file the run under."""
    tracker_options: dict[str, dict[str, bool | int | float | str | list[str]]] = Field({})
    """What a tracker's own start takes besides, by tracker, such as `{wandb: {mode: offline}}`; no
    secrets, which trackers read from the environment."""
    samples_per_step: int = Field(2, ge=0)
    """Rollouts written to samples.jsonl at each step, with the log-prob of every token."""
    profile_steps: tuple[NonNegativeInt, NonNegativeInt] | None = None
    """First and last step to record in profile/: a Perfetto trace, and where the seconds went."""

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        """Refuse options of trackers that are not named, and secrets: config.json keeps both."""
        for kind, options in self.tracker_options.items():
            if kind not in self.trackers:
                raise ValueError(
                    f"tracker_options has options of {kind}, which trackers does not name; "
                    f"add {kind} to observability.trackers, or take them out"
                )
            for name in options:
                if SECRET_NAME.search(name):
                    raise ValueError(
                        f"tracker_options.{kind}.{name} looks like a secret, which config.json "
                        "would show; set it in the environment, or log in before"
                    )
        return self
