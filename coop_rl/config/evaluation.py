"""Section `evaluation`: what is measured before, during and after training, or by itself."""

import re
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from coop_rl.config.base import NAME, Section
from coop_rl.config.data import DataSource


class HeldOut(NamedTuple):
    """A set of the user's own."""

    name: str
    """As metrics call it."""
    section: str
    """Its section of the config, for errors."""
    source: DataSource


class EvaluationSection(Section):
    """Accuracy on held-out data and on benchmarks, each a set with figures of its own."""

    name: str = Field("held_out", pattern=NAME)
    """Name of the set `data` in metrics: `eval/<name>/pass@1`."""
    data: DataSource | None = None
    """Held-out prompts; null: only `more_data` and `benchmarks` are measured."""
    more_data: dict[str, DataSource] = Field({})
    """More held-out prompts, each a set by its name, such as `{harder: {path: harder.jsonl}}`."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks by name, such as math500 or gsm8k (docs/evaluation.md)."""
    data_dir: str | None = None
    """Folder with `<benchmark>/test.jsonl`; null: the one that the environment variable
    COOP_RL_DATA names, else the hub."""
    template_arguments: dict[str, bool | int | float | str] = Field({})
    """Arguments of the model's chat template where benchmarks are asked, such as
    `{enable_thinking: false}`; `data` has its own."""
    num_items: int | None = Field(256, ge=1)
    """Rows of `data`, and of each of `more_data`, used from the top; null: all."""
    benchmark_items: int | None = Field(None, ge=1)
    """Rows of each benchmark used, from its top; its name in metrics then ends in `-first<n>`;
    null: all, which is what its name stands for."""
    num_samples: int = Field(4, ge=1)
    """n, the number of responses sampled for each item, for avg@n, maj@n and pass@k."""
    pass_at: tuple[int, ...] | None = None
    """Every k, from 2 to n, of which pass@k is measured; null: the powers of two below n, and n.
    (The figure called pass@1 is greedy; the unbiased pass@1 is avg@n.)"""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampled responses; pass@1 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1.0)
    """Sampled responses consist only of the likeliest tokens with this much probability in all."""
    max_tokens: int | None = Field(None, ge=1)
    """Upper limit of response tokens; null: rollout.max_tokens."""
    every: int = Field(0, ge=0)
    """Steps between evaluations; 0: only before and after training."""
    num_rollout_actors: int = Field(0, ge=0)
    """Rollout actors of the evaluation's own, which keep the weights of the step that is evaluated
    while training goes on; 0: training's own rollout actors evaluate, and training waits."""
    num_demonstrations: int | None = Field(None, ge=0)
    """Demonstrations, the last rows, that are kept from training so that every evaluation measures
    their NLL, with a method that learns from none too; null: none, but for `cold_start`, whose
    switch needs them: 64, at most a tenth of the rows."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether a run of `num_steps` evaluates after `step` steps."""
        return step in (0, num_steps) or (self.every > 0 and step % self.every == 0)

    @property
    def set_names(self) -> tuple[str, ...]:
        """The sets in order, as metrics call them; the first is what a study's figures are of."""
        own = tuple(held_out.name for held_out in self.held_out)
        return own + tuple(map(self.shown_name, self.benchmarks))

    @property
    def held_out(self) -> list[HeldOut]:
        """The user's own sets, `data` first."""
        first = [HeldOut(self.name, "evaluation.data", self.data)] if self.data else []
        return first + [
            HeldOut(name, f"evaluation.more_data.{name}", source)
            for name, source in self.more_data.items()
        ]

    def shown_name(self, benchmark: str) -> str:
        """Return what metrics call a benchmark: a part of it does not go by the name of all."""
        cut = self.benchmark_items
        return benchmark if cut is None else f"{benchmark}-first{cut}"

    @property
    def pass_ks(self) -> tuple[int, ...]:
        """Every k > 1 of pass@k, rising."""
        n = self.num_samples
        if self.pass_at is not None:
            return tuple(sorted(set(self.pass_at)))
        powers = (2**i for i in range(1, n.bit_length()))
        return tuple(sorted({*powers, n} - {1}))

    @property
    def figures(self) -> tuple[str, ...]:
        """The accuracies measured on each set, as metric names end."""
        n = self.num_samples
        majority = (f"maj@{n}",) if n > 1 else ()
        return ("pass@1", f"avg@{n}", *(f"pass@{k}" for k in self.pass_ks), *majority)

    @model_validator(mode="after")
    def _check_sets(self) -> Self:
        names = self.set_names
        for name in self.more_data:
            if not re.fullmatch(NAME, name):
                raise ValueError(
                    "names in evaluation.more_data are of letters, digits, dots, hyphens and "
                    f"underscores, got {name!r}; rename it"
                )
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"evaluation sets need names of their own, got {name} twice")
        if "demonstrations" in names:
            raise ValueError("an evaluation set must not be called demonstrations; rename it")
        for k in self.pass_ks:
            if not 2 <= k <= self.num_samples:
                raise ValueError(
                    f"evaluation.pass_at must lie between 2 and evaluation.num_samples "
                    f"{self.num_samples}, got {k}"
                )
        return self
