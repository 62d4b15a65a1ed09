"""Arms of one config over paired seeds: runs what is missing, then one table of Markdown.

Used by `w_objective.py` and `mixed_sources.py`, which state the arms. A run is a folder
ARM-SEED; a finished one is not run again.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from coop_rl.evaluation.estimators import seed_interval

LAST_STEPS = 10
Row = dict[str, Any]
Figure = Callable[[list[Row], list[Row]], float]

FIGURES: dict[str, Figure] = {
    "pass@1": lambda _, evaluated: evaluated[-1]["eval/sums/pass@1"],
    "avg@4": lambda _, evaluated: evaluated[-1]["eval/sums/avg@4"],
    "training reward, last 10 steps": lambda steps, _: fmean(
        row["reward/mean"] for row in steps[-LAST_STEPS:]
    ),
}


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared."""

    config: str
    arms: Mapping[str, Sequence[str]]
    """Overrides by arm; the first is compared with each of the others."""
    diagnostics: Sequence[str]
    """Metrics whose medians are shown."""
    seeds: Sequence[int] = range(5)
    settings: Sequence[str] = (
        "run.num_steps=40",
        "evaluation.num_items=512",
        "checkpoint.every=0",
        "observability.tensorboard=false",
    )

    def run_missing(self, folder: Path) -> None:
        """Train every arm and seed that has not finished yet, the arms of a seed in a row."""
        folder.mkdir(parents=True, exist_ok=True)
        for seed in self.seeds:
            for arm, overrides in self.arms.items():
                run_dir = folder / f"{arm}-{seed}"
                if is_finished(run_dir):
                    continue
                sets = (*self.settings, f"run.seed={seed}", *overrides)
                command = [sys.executable, "-m", "coop_rl", "train", self.config]
                command += ["--run-dir", str(run_dir), *(f"--set={value}" for value in sets)]
                subprocess.run(command, check=True, stdout=sys.stderr)

    def table(self, folder: Path) -> list[str]:
        """Return the Markdown lines, over the seeds that every arm has finished."""
        seeds = [s for s in self.seeds if all(is_finished(folder / f"{a}-{s}") for a in self.arms)]
        if len(seeds) < 2:
            return [f"{len(seeds)} of {len(self.seeds)} seeds have finished in every arm"]
        runs = {(arm, s): rows_of(folder / f"{arm}-{s}") for arm in self.arms for s in seeds}
        first, *others = self.arms
        lines = [f"{len(seeds)} seeds", "", "| arm | " + " | ".join(FIGURES) + " |"]
        lines.append("|---|" + "---|" * len(FIGURES))
        for arm in self.arms:
            values = [[figure(*runs[arm, s]) for s in seeds] for figure in FIGURES.values()]
            cells = " | ".join(f"{fmean(v):.3f} ± {stdev(v):.3f}" for v in values)
            lines.append(f"| {arm} | {cells} |")
        for arm in others:
            cells = " | ".join(
                interval([figure(*runs[first, s]) - figure(*runs[arm, s]) for s in seeds])
                for figure in FIGURES.values()
            )
            lines.append(f"| {first} − {arm} | {cells} |")
        names = " | ".join(f"`{n}`" for n in self.diagnostics)
        lines += ["", f"| median over steps and seeds | {names} |"]
        lines.append("|---|" + "---|" * len(self.diagnostics))
        for arm in self.arms:
            steps = [row for s in seeds for row in runs[arm, s][0]]
            cells = " | ".join(middle(steps, name) for name in self.diagnostics)
            lines.append(f"| {arm} | {cells} |")
        return lines

    def main(self, folder: Path) -> None:
        """Run and print."""
        self.run_missing(folder)
        sys.stdout.write("\n".join(self.table(folder)) + "\n")


def is_finished(run_dir: Path) -> bool:
    """Return whether a run has its evaluation before and after."""
    return (run_dir / "run.json").exists() and len(rows_of(run_dir)[1]) > 1


def rows_of(run_dir: Path) -> tuple[list[Row], list[Row]]:
    """Return a run's rows of steps and of evaluations."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "grad/norm" in row]
    return steps, [row for row in rows if "eval/sums/pass@1" in row]


def interval(differences: Sequence[float]) -> str:
    """Return mean and 95 % t interval."""
    found = seed_interval(differences)
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def middle(steps: Sequence[Row], name: str) -> str:
    """Return the median of a metric where it was measured."""
    values = [row[name] for row in steps if row.get(name) is not None]
    return f"{median(values):.4f}" if values else "–"
