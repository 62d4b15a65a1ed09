"""Does the shadow matter? All five `meta.w_objective` on the demo, five seeds each, as one table.

python bench/w_objective.py RUNS_FOLDER        (or: make study)

Runs what is missing in RUNS_FOLDER (about 4 minutes a run on 2 cores), then prints Markdown: mean
and standard deviation over seeds, and `cooperative` less each control on the same seeds with a 95 %
t interval.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

CONTROLS = ("mixture", "sft", "frozen", "random")
ARMS = ("cooperative", *CONTROLS)
SEEDS = range(5)
SETTINGS = (
    "run.num_steps=40",
    "evaluation.num_items=512",
    "checkpoint.every=0",
    "observability.tensorboard=false",
)
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Student's t by degrees of freedom."""
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
DIAGNOSTICS = (
    "guidance/bracket_norm",
    "guidance/grad_sft_norm",
    "guidance/bracket_cosine",
    "guidance/update_norm",
    "gain/ess",
)


def run_missing(folder: Path) -> None:
    """Train every arm and seed that has not finished yet."""
    for seed in SEEDS:
        for arm in ARMS:
            run_dir = folder / f"{arm}-{seed}"
            if (run_dir / "run.json").exists() and len(rows_of(run_dir)[1]) > 1:
                continue
            sets = (*SETTINGS, f"run.seed={seed}", f"meta.w_objective={arm}")
            command = [sys.executable, "-m", "coop_rl", "train", "configs/local/demo.yaml"]
            command += ["--run-dir", str(run_dir), *(f"--set={value}" for value in sets)]
            subprocess.run(command, check=True, stdout=sys.stderr)


def rows_of(run_dir: Path) -> tuple[list[Row], list[Row]]:
    """Return a run's rows of steps and of evaluations."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "grad/norm" in row]
    return steps, [row for row in rows if "eval/sums/pass@1" in row]


def table(folder: Path) -> list[str]:
    """Return the Markdown lines."""
    runs = {(arm, seed): rows_of(folder / f"{arm}-{seed}") for arm in ARMS for seed in SEEDS}
    lines = ["| w follows | " + " | ".join(FIGURES) + " |", "|---|" + "---|" * len(FIGURES)]
    for arm in ARMS:
        values = [[figure(*runs[arm, s]) for s in SEEDS] for figure in FIGURES.values()]
        cells = " | ".join(f"{fmean(v):.3f} ± {stdev(v):.3f}" for v in values)
        lines.append(f"| {arm} | {cells} |")
    for arm in CONTROLS:
        cells = " | ".join(
            interval([figure(*runs["cooperative", s]) - figure(*runs[arm, s]) for s in SEEDS])
            for figure in FIGURES.values()
        )
        lines.append(f"| cooperative − {arm} | {cells} |")
    lines += [
        "",
        "| median over steps and seeds | " + " | ".join(f"`{n}`" for n in DIAGNOSTICS) + " |",
    ]
    lines.append("|---|" + "---|" * len(DIAGNOSTICS))
    for arm in ARMS:
        steps = [row for seed in SEEDS for row in runs[arm, seed][0]]
        lines.append(f"| {arm} | " + " | ".join(middle(steps, name) for name in DIAGNOSTICS) + " |")
    return lines


def interval(differences: Sequence[float]) -> str:
    """Return mean and 95 % t interval."""
    mean = fmean(differences)
    half = T_975[len(differences) - 1] * stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def middle(steps: Sequence[Row], name: str) -> str:
    """Return the median of a metric where it was measured."""
    values = [row[name] for row in steps if row.get(name) is not None]
    return f"{median(values):.4f}" if values else "–"


def main(folder: Path) -> None:
    """Run and print."""
    folder.mkdir(parents=True, exist_ok=True)
    run_missing(folder)
    sys.stdout.write("\n".join(table(folder)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
