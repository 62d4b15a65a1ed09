"""What an evaluation found: figures, files, and the comparison of two; `measure` makes it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from coop_rl.errors import DataError, RunError, first_line
from coop_rl.evaluation.estimators import (
    Estimate,
    mean_interval,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from coop_rl.files import write_text
from coop_rl.metric_names import evaluation_name

SHARES = ("format", "truncated", "unscored")
"""Figures that are shares of all responses."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """One set's evaluation, item by item; P items in file order."""

    name: str
    """The set."""
    step: int
    """Steps trained before it; 0: the base model."""
    ids: tuple[str, ...]
    greedy_correct: tuple[bool, ...]
    """Whether the greedy response is right."""
    num_correct: tuple[int, ...]
    """Right ones among `num_samples` sampled responses."""
    majority_correct: tuple[bool, ...]
    """Whether the commonest answer of the sampled responses is right."""
    num_samples: int
    pass_ks: tuple[int, ...]
    """Every k > 1 of pass@k."""
    truncated: float
    """Share of all responses that hit the token limit."""
    format: float
    """Share of all responses that have the form the answer was asked for in."""
    unscored: float
    """Share of all responses whose verifier timed out or crashed."""
    length_mean: float
    """Tokens per response."""
    num_tokens: int
    """Response tokens in all."""
    seconds: float
    """Time from the first prompt sent to the last verdict."""

    @property
    def pass_at_1(self) -> Estimate:
        """Greedy accuracy, Wilson interval."""
        return wilson_interval(sum(self.greedy_correct), len(self.ids))

    @property
    def average(self) -> Estimate:
        """avg@n over the sampled responses."""
        return mean_interval(self.item_values(f"avg@{self.num_samples}"))

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Every accuracy by its name: pass@1, avg@n, pass@k, maj@n."""
        n = self.num_samples
        found = {"pass@1": self.pass_at_1, f"avg@{n}": self.average}
        found |= {f"pass@{k}": mean_interval(self.item_values(f"pass@{k}")) for k in self.pass_ks}
        if n > 1:
            found[f"maj@{n}"] = wilson_interval(sum(self.majority_correct), len(self.ids))
        return found

    def item_values(self, figure: str) -> list[float]:
        """Return the items' values, in [0, 1], whose mean is the accuracy `figure`."""
        kind, _, number = figure.partition("@")
        if figure == "pass@1":
            return [float(c) for c in self.greedy_correct]
        if kind == "maj":
            return [float(c) for c in self.majority_correct]
        if kind == "avg":
            return [c / self.num_samples for c in self.num_correct]
        return [pass_at_k(self.num_samples, c, int(number)) for c in self.num_correct]

    def metrics(self) -> dict[str, float]:
        """Return the figures under their metric names."""
        figures = {share: float(asdict(self)[share]) for share in SHARES}
        figures["length_mean"] = self.length_mean
        for key, estimate in self.estimates.items():
            figures |= {
                key: estimate.value,
                f"{key}_low": estimate.low,
                f"{key}_high": estimate.high,
            }
        return {evaluation_name(self.name, key): value for key, value in figures.items()}

    def write(self, path: Path, about: dict[str, Any] | None = None) -> None:
        """Write it as JSON, whole or not at all, with its figures and what `about` adds.

        Raises:
            RunError: It cannot be written.
        """
        figures = {name: asdict(estimate) for name, estimate in self.estimates.items()}
        write_json(path, {**(about or {}), "figures": figures, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "EvaluationResult":
        """Read what `write` wrote.

        Raises:
            DataError: It is no such file.
        """
        try:
            result = TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is no evaluation result: {first_line(error)}") from None
        items = (result.greedy_correct, result.num_correct, result.majority_correct)
        counts = (*result.num_correct, *result.pass_ks)
        are_possible = result.num_samples > 0 and all(0 <= n <= result.num_samples for n in counts)
        if not (result.ids and are_possible and {len(i) for i in items} == {len(result.ids)}):
            raise DataError(f"{path} is no evaluation result: its counts cannot be")
        return result


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations on the same items, such as the first and the last of a run."""

    before: EvaluationResult
    after: EvaluationResult

    @property
    def name(self) -> str:
        """The set."""
        return self.after.name

    @property
    def differences(self) -> dict[str, Estimate]:
        """After less before, paired by item, for every accuracy both have."""
        shared = [name for name in self.after.estimates if name in self.before.estimates]
        return {
            name: paired_difference(self.before.item_values(name), self.after.item_values(name))
            for name in shared
        }


def compare(before: EvaluationResult, after: EvaluationResult) -> Comparison | None:
    """Return the comparison; None where the items differ."""
    return Comparison(before, after) if before.ids == after.ids else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file whole, or not at all.

    Raises:
        RunError: It cannot be written.
    """
    try:
        write_text(path, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; free space there") from None
