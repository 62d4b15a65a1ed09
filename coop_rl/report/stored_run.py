"""A run read from its folder, finished or still growing; who reads it never writes there."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from coop_rl.errors import DataError, RunDirectoryError
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.metric_names import DEVICE_SECONDS, LEDGER

Row = dict[str, Any]
Axis = Literal["steps", "tokens", "generated_tokens", "device_seconds"]
AXES: tuple[Axis, ...] = ("steps", "tokens", "device_seconds")
"""What charts and `coop-rl compare` go over."""
TOKEN_TOTALS = ("tokens_generated", "tokens_rl", "tokens_sft", "tokens_shadow")
"""What the tokens of a run are: generated ones, and those in each loss, so that SFT costs too."""

OF_STEPS = "grad/norm"
"""A metric that every step's row has, and no row of what is measured between steps."""


@dataclass(frozen=True)
class StoredRun:
    """What a run's folder holds; rows that cannot be read are left out and counted."""

    path: Path
    config: Row
    """config.json."""
    status: Row
    """run.json; empty where there is none yet."""
    steps: tuple[Row, ...]
    """metrics.jsonl: one row a step."""
    evaluations: tuple[Row, ...]
    """metrics.jsonl: what was measured between steps."""
    samples: tuple[Row, ...]
    num_unreadable: int
    """Lines that are no JSON object."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.name

    @property
    def seed(self) -> int:
        """run.seed."""
        return int(self.config.get("run", {}).get("seed", 0))

    @property
    def method(self) -> str:
        """method.kind."""
        return str(self.config.get("method", {}).get("kind", "unknown"))

    @property
    def is_running(self) -> bool:
        """Whether no end was written yet."""
        return self.status.get("status") == "running"

    @cached_property
    def results(self) -> dict[str, dict[int, EvaluationResult]]:
        """Stored evaluations by set and by steps trained before them."""
        found: dict[str, dict[int, EvaluationResult]] = {}
        for path in sorted(self.path.glob("evaluations/step-*/*.json")):
            try:
                result = EvaluationResult.read(path)
            except DataError:
                continue  # of another version, or being written
            found.setdefault(result.name, {})[result.step] = result
        return found

    def costs(self, axis: Axis) -> list[float]:
        """Return what the run had spent after each of `steps`."""
        if axis == "steps":
            return [row["step"] + 1.0 for row in self.steps]
        return [spent(row, axis) for row in self.steps]

    def cost_after(self, num_steps: int, axis: Axis) -> float | None:
        """Return what the run had spent after so many steps; None where no row says it."""
        if axis == "steps" or num_steps == 0:
            return float(num_steps)
        row = self._by_step.get(num_steps - 1)
        return None if row is None else spent(row, axis)

    @cached_property
    def _by_step(self) -> dict[int, Row]:
        return {row["step"]: row for row in self.steps}


def spent(row: Row, axis: Axis) -> float:
    """Return the tokens, or the device-seconds, of a step's running totals."""
    if axis == "generated_tokens":
        return float(row.get(LEDGER + "tokens_generated") or 0)
    if axis == "tokens":
        return float(sum(row.get(LEDGER + name) or 0 for name in TOKEN_TOTALS))
    return float(sum(row[name] or 0 for name in row if name.startswith(DEVICE_SECONDS)))


def read_runs(paths: Sequence[Path]) -> list[StoredRun]:
    """Read several runs, each once.

    Raises:
        RunDirectoryError: One is no run directory.
    """
    return [read_run(path) for path in dict.fromkeys(path.absolute() for path in paths)]


def read_run(path: Path) -> StoredRun:
    """Read a run's folder.

    Raises:
        RunDirectoryError: It is no run directory.
    """
    config = read_object(path / "config.json")
    if config is None:
        found = "no readable config.json" if path.is_dir() else "no such folder"
        raise RunDirectoryError(
            f"{path} is no run directory ({found}); give a folder that coop-rl train wrote, such "
            "as runs/demo"
        )
    rows, num_unreadable = read_rows(path / "metrics.jsonl")
    samples, num_torn = read_rows(path / "samples.jsonl")
    good = [row for row in rows if _is_measured(row)]
    num_unreadable += len(rows) - len(good)
    return StoredRun(
        path.resolve(),
        config,
        read_object(path / "run.json") or {},
        tuple(row for row in good if OF_STEPS in row),
        tuple(row for row in good if OF_STEPS not in row),
        tuple(samples),
        num_unreadable + num_torn,
    )


def read_rows(path: Path) -> tuple[list[Row], int]:
    """Return the objects of a JSONL file, and how many whole lines hold none.

    Broken UTF-8 is replaced; the last line counts only once it is ended.
    """
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError:
        return [], 0
    lines = [line for line in whole.split(b"\n") if line.strip()]
    rows = [row for row in map(_object, lines) if row is not None]
    return rows, len(lines) - len(rows)


def flatten(values: Row, prefix: str = "") -> Row:
    """Return nested sections as one level of dotted names."""
    flat: Row = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def numbers(rows: Iterable[Row], name: str) -> list[float]:
    """Return a metric where it was measured."""
    return [row[name] for row in rows if isinstance(row.get(name), int | float)]


def read_object(path: Path) -> Row | None:
    """Return the object of a JSON file; None where there is none that can be read."""
    try:
        return _object(path.read_bytes())
    except OSError:
        return None


def _object(data: bytes) -> Row | None:
    try:
        value = json.loads(data.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_measured(row: Row) -> bool:
    """Whether a row holds a step and numbers by names that can be written, as those of metrics."""
    try:
        "".join(row).encode()
    except UnicodeEncodeError:  # half a character
        return False
    has_step = type(row.get("step")) is int
    return has_step and all(isinstance(value, int | float | None) for value in row.values())
