"""What every script of `make bench` hands over: ratios of two things timed in the same run.

measures = [Measure("rollout tokens/s over bare vLLM", 0.97, 0.95, 0.99, floor=0.95)]
save("rollout_engine", measures)        # bench/results.d/rollout_engine.json
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results.d"

Detail = Mapping[str, float | int | str | Sequence[float] | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """One ratio with its spread, and what it is held against."""

    name: str
    ratio: float
    """Median over the repetitions."""
    low: float
    """Smallest repetition."""
    high: float
    """Largest repetition."""
    floor: float | None = None
    """What was asked for; None: only reported."""
    higher_is_better: bool = True
    """False: `floor` is the most that the ratio may be."""
    detail: Detail = field(default_factory=dict)
    """Raw figures behind the ratio, with units in their names; `ours` and `reference` are shown."""

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps to the floor; None where there is none."""
        if self.floor is None:
            return None
        return self.ratio >= self.floor if self.higher_is_better else self.ratio <= self.floor


def of_ratios(
    name: str,
    ratios: Sequence[float],
    floor: float | None = None,
    higher_is_better: bool = True,
    detail: Detail | None = None,
) -> Measure:
    """Return the measure of repeated ratios: their median, smallest and largest."""
    if not ratios:
        raise ValueError(f"{name}: no repetition was measured")
    return Measure(
        name, median(ratios), min(ratios), max(ratios), floor, higher_is_better, detail or {}
    )


def save(script: str, measures: Sequence[Measure], folder: Path = RESULTS) -> Path:
    """Write a script's measures as JSON, in place of its earlier ones; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{script}.json"
    rows = [asdict(measure) | {"is_met": measure.is_met} for measure in measures]
    path.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")
    return path


def load(script: str, folder: Path = RESULTS) -> list[Measure]:
    """Return what `save` wrote.

    Raises:
        FileNotFoundError: The script has saved nothing.
    """
    rows = json.loads((folder / f"{script}.json").read_text())
    return [Measure(**{k: v for k, v in row.items() if k != "is_met"}) for row in rows]
