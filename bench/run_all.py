"""`make bench`: runs every bench script that reports ratios, one after the other, and merges them.

A script belongs to it when it stands in SCRIPTS and hands over `bench.report.Measure`s by `save`.
Writes bench/results.json and prints a table. A script that fails or runs past its limit is named in
both, and the exit code is 1; figures that it saved in an earlier run are not shown in its place.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from report import RESULTS, Measure, load  # noqa: E402

SCRIPTS = (
    "rollout_engine",
    "startup",
    "weight_sync",
    "learner",
    "loss_memory",
    "branches",
    "overlap",
    "packing",
    "controller",
    "report_page",
    "step_against_trl",
)
LIMIT_S = 5400.0
"""Of one script; TRL on SmolLM2 takes about 3 minutes a step."""


def run_script(script: str, limit_s: float) -> list[Measure] | str:
    """Run a script; return its measures, or why there are none."""
    if not (HERE / f"{script}.py").is_file():
        return "no such script"
    (RESULTS / f"{script}.json").unlink(missing_ok=True)
    try:
        done = subprocess.run([sys.executable, str(HERE / f"{script}.py")], timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"not done within {limit_s:g} s"
    if done.returncode:
        return f"exit code {done.returncode}"
    try:
        return load(script)
    except FileNotFoundError:
        return "saved no measures"


def table_of(results: dict[str, list[Measure] | str]) -> Table:
    """Return the table of all measures; a failed script has a row of its own."""
    table = Table(title="make bench", title_justify="left")
    table.add_column("measure", overflow="fold")
    for name in ("ours", "reference", "ratio", "floor", "met"):
        table.add_column(name, justify="right")
    for script, found in results.items():
        if isinstance(found, str):
            table.add_row(script, "", "", found, "", "failed")
            continue
        for m in found:
            sign = "≥" if m.higher_is_better else "≤"
            table.add_row(
                m.name,
                _figure(m.detail.get("ours")),
                _figure(m.detail.get("reference")),
                f"{m.ratio:.3g} [{m.low:.3g}-{m.high:.3g}]",
                "" if m.floor is None else f"{sign} {m.floor:g}",
                {True: "yes", False: "NO", None: ""}[m.is_met],
            )
    return table


def merged(results: dict[str, list[Measure] | str]) -> dict[str, object]:
    """Return what bench/results.json holds: measures per script, or its failure."""
    return {
        script: {"failed": found}
        if isinstance(found, str)
        else [asdict(m) | {"is_met": m.is_met} for m in found]
        for script, found in results.items()
    }


def main() -> int:
    """Run what is asked for, all scripts by default; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", choices=[*SCRIPTS, []], help="default: all")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of one script")
    given = parser.parse_args()
    results = {name: run_script(name, given.limit_s) for name in given.scripts or SCRIPTS}
    Console().print(table_of(results))
    text = json.dumps(merged(results), indent=2, allow_nan=False)
    (HERE / "results.json").write_text(text + "\n")
    return int(any(isinstance(found, str) for found in results.values()))


def _figure(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float | int) else str(value or "")


if __name__ == "__main__":
    raise SystemExit(main())
