"""The declaration of a study: one YAML file, checked whole before anything else is read.

question: Does guidance help where half of the demonstrations are harmful?
base: ../local/mixed-sources.yaml
set: {run.num_steps: 40, evaluation.num_samples: 8}
arms:
  learned: {meta.guidance: [demonstrations]}
  rl: {method.kind: rl}
seeds: [0, 1, 2]
contrasts:
  - {arm: learned, reference: rl}
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from coop_rl.config.base import Section
from coop_rl.config.read import read_mapping
from coop_rl.errors import ConfigError

EXCERPT_CHARACTERS = 80
NAME = r"^[A-Za-z][A-Za-z0-9._-]*$"
"""What arms and studies may be called: seeds, which are numbers, lie beside them."""
Name = Annotated[str, Field(pattern=NAME)]
Overrides = dict[str, Any]
"""Fields of a run config, as sections or by dotted names; paths are from the grid's folder."""
Seed = Annotated[int, Field(ge=0)]


class Contrast(Section):
    """Two arms whose difference is tested: `arm` less `reference`, paired by seed."""

    arm: Name
    """The arm that is asked about."""
    reference: Name
    """The arm it is held against."""
    margin: float | None = Field(None, gt=0.0)
    """Where given, equivalence is tested too: whether the difference in the primary figure lies
    within plus and minus this (two one-sided tests)."""

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.arm} − {self.reference}"


class Grid(Section):
    """What a study runs and what it will say, fixed before the first run."""

    question: str = Field(min_length=1)
    """What the study asks, in a sentence."""
    base: str = Field(min_length=1)
    """Run config that every arm is laid over; its path from the grid's folder."""
    set: Overrides = Field({})
    """Overrides of every run."""
    arms: dict[Name, Overrides] = Field(min_length=1)
    """What is compared: overrides by the arm's name; `{}` is the base itself."""
    seeds: tuple[Seed, ...] = Field(min_length=1)
    """`run.seed` of the runs of every arm; runs of one seed are compared with each other."""
    known_seeds: tuple[Seed, ...] = ()
    """Those of `seeds` whose runs were seen before the declaration, where what to test was found on
    them; the contrasts are given over the others alone as well."""
    contrasts: tuple[Contrast, ...] = ()
    """Pairs of arms that are tested; p-values are adjusted for their number (Holm)."""
    primary: str = "avg@8"
    """The figure the conclusion rests on: an accuracy of the first evaluation set."""
    second: str = "pass@1"
    """The figure shown beside it."""
    diagnostics: tuple[str, ...] = ()
    """Metrics that are shown for every arm, such as guidance/mix."""
    trials: dict[Name, tuple[Overrides, ...]] = Field({})
    """Settings that are tried for an arm before its runs; the one with the highest training reward
    over the last steps is taken. Held-out items have no part in the choice."""
    trial_seeds: tuple[Seed, ...] = Field((1000,), min_length=1)
    """`run.seed` of the trials' runs, none of which is a seed of the study."""
    trial_evaluation: Overrides = Field({})
    """Fields of section `evaluation` for the trials' runs alone, whose held-out figures nobody
    looks at: `{every: 0, num_items: 16, num_samples: 1}` makes them cheaper."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        named = [name for c in self.contrasts for name in (c.arm, c.reference)]
        for name in (*named, *self.trials):
            if name not in self.arms:
                raise ValueError(f"there is no arm {name}; arms are {', '.join(self.arms)}")
        for contrast in self.contrasts:
            if contrast.arm == contrast.reference:
                raise ValueError(f"a contrast needs two arms, got {contrast.arm} twice")
        pairs = [(c.arm, c.reference) for c in self.contrasts]
        _refuse_repeated("contrasts", [" and ".join(sorted(pair)) for pair in pairs])
        for name, trials in self.trials.items():
            if len(trials) < 2:
                raise ValueError(f"trials.{name}: a choice needs 2 trials, got {len(trials)}")
        if self.trial_evaluation and not self.trials:
            raise ValueError("trial_evaluation is for trials, and there are none; remove it")
        if "num_demonstrations" in self.trial_evaluation:
            raise ValueError(
                "trial_evaluation.num_demonstrations: those are kept from training, so it is one "
                "for all runs; move it to set"
            )
        return self

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        _refuse_repeated("seeds", self.seeds)
        _refuse_repeated("trial_seeds", self.trial_seeds)
        _refuse_repeated("known_seeds", self.known_seeds)
        if unknown := sorted({*self.known_seeds} - {*self.seeds}):
            raise ValueError(f"known_seeds must be some of the seeds, got {unknown[0]}")
        if both := sorted({*self.seeds} & {*self.trial_seeds}):
            raise ValueError(
                f"trial_seeds must be none of the study's seeds, got {both[0]} in both; give others"
            )
        return self


def read_grid(path: Path) -> Grid:
    """Read and check a grid.

    Raises:
        ConfigError: It cannot be read, or declares no study.
    """
    values = read_mapping(path)
    try:
        return Grid.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_problem(error)}") from None


def leaves(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field that is set, by its dotted name."""
    for name, value in overrides.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _refuse_repeated(field: str, values: Any) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise ValueError(f"{field} must differ from each other, got {value} twice")


def _problem(error: ValidationError) -> str:
    """Say the first problem in one line; an unknown key, where one is missing that it may be."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        model = Contrast if first["loc"][0] == "contrasts" else Grid
        return f"unknown key {where}; allowed: {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"{where} is missing; add it to the grid"
    if not where:
        return message
    text = repr(first["input"])
    shown = text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS]}..."
    return f"{where}: {message}, got {shown}"
