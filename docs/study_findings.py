"""Writes what the published studies found: tables of each, and docs/studies/findings.md of all.

make docs        or        python docs/study_findings.py docs/studies

The figures come from the raw ones in `docs/studies/NAME`, by the declaration
`configs/study/NAME.yaml`; `coop-rl study configs/study/NAME.yaml --export docs/studies/NAME` adds
runs.
"""

import sys
from functools import cache
from pathlib import Path
from textwrap import fill

from coop_rl.study.archive import read_archive
from coop_rl.study.findings import Findings, find
from coop_rl.study.grid import Grid, read_grid
from coop_rl.study.tables import PAGE_COLUMNS, files_of, in_short, markdown_lines

GRIDS = Path(__file__).parents[1] / "configs/study"
ORDER = (
    "mixed-sources",
    "learned-mix-good",
    "learned-mix-harmful",
    "w-objective",
    "rivals",
    "without-shadow",
    "rivals-sparse",
    "equal-seconds",
    "few-demonstrations",
    "smollm2-sources",
    "robustness",
)
"""Every grid, as in docs/studies/README.md: what matters most comes first."""
INTRODUCTION = """# What the studies found

One section a study that has begun, of those that are [declared](README.md#what-is-declared).
Differences are paired by seed: after the last step, and where both runs had spent as many
device-seconds. Made from the raw figures by `make docs`."""


@cache
def read(folder: Path, declaration: Path) -> tuple[Grid, Findings]:
    """Return the declaration of a published study, and what it found."""
    grid = read_grid(declaration)
    set_name, runs = read_archive(folder, grid)
    return grid, find(grid, set_name, runs)


def section_of(name: str, grid: Grid, found: Findings) -> str:
    """Return what the page says of one study."""
    num_runs = sum(cost.num_runs for cost in found.costs)
    of_all = f"{num_runs} of {len(grid.arms) * len(grid.seeds)} runs of its arms"
    lines = [
        f"## {grid.question}",
        "",
        fill(
            f"`configs/study/{name}.yaml`, {of_all}: {', '.join(grid.arms)}.",
            PAGE_COLUMNS,
            break_on_hyphens=False,
        ),
        fill(f"{found.protocol or 'Trials only'}. [All tables]({name}/tables.md).", PAGE_COLUMNS),
        "",
        f"Tables again: `coop-rl study configs/study/{name}.yaml --from docs/studies/{name}`;",
        "runs again: without `--from`.",
        "",
    ]
    for table in in_short(grid, found):
        lines += [f"{table.title}:", "", *markdown_lines(table), ""]
    return "\n".join(lines).rstrip()


def pages(folder: Path) -> dict[Path, str]:
    """Return every page of the published studies in `folder`, by where it lies."""
    names = [name for name in ORDER if (folder / name / "study.json").exists()]
    studies = {folder / name: read(folder / name, GRIDS / f"{name}.yaml") for name in names}
    found = {
        own / file: text
        for own, study in studies.items()
        for file, text in files_of(*study).items()
    }
    sections = [section_of(own.name, *study) for own, study in studies.items()]
    return found | {folder / "findings.md": "\n\n".join([INTRODUCTION, *sections]) + "\n"}


if __name__ == "__main__":
    for page, text in pages(Path(sys.argv[1])).items():
        page.write_text(text, encoding="utf-8")
