"""Findings as tables: the terminal, Markdown and the report's page show the same ones."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from coop_rl.report.comparison import LAST_STEPS
from coop_rl.report.stored_run import Axis
from coop_rl.study.contrasts import ContrastFinding
from coop_rl.study.equal_cost import STUDY_AXES
from coop_rl.study.findings import ArmFinding, Findings
from coop_rl.study.grid import Grid, leaves
from coop_rl.study.mean import Mean
from coop_rl.study.runs import TRAINING_REWARD

NOTHING = "–"
FILE_COLUMNS = 160
"""Columns of what goes into a file or pipe: a row of contrasts in one line."""
PAGE_COLUMNS = 120
"""Columns of a Markdown page's text."""
EQUAL = {
    "steps": "steps",
    "generated_tokens": "generated tokens",
    "device_seconds": "device-seconds",
}

IN_SHORT: tuple[Axis, ...] = ("steps", "device_seconds")


@dataclass(frozen=True, slots=True)
class Table:
    """One table, every cell as it is shown; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def tables_of(grid: Grid, found: Findings) -> list[Table]:
    """Return every table that has rows."""
    figures = (grid.primary, grid.second, TRAINING_REWARD)
    tables = [
        *in_short(grid, found),
        _arms(grid, found),
        *(_contrasts(figure, found) for figure in figures),
        _gains(grid, found),
        _diagnostics(grid, found),
        _diagnostic_contrasts(grid, found),
        _trials(grid, found),
        _costs(found),
    ]
    return [table for table in tables if table.rows]


def markdown(grid: Grid, found: Findings) -> str:
    """Return all tables as one page."""
    lines = [f"# {grid.question}", ""]
    for table in tables_of(grid, found):
        lines += [f"## {table.title}", "", *markdown_lines(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def files_of(grid: Grid, found: Findings) -> dict[str, str]:
    """Return what lies beside a study's runs and in its export, by the file's name."""
    values = {"grid": grid.model_dump(mode="json"), "findings": asdict(found)}
    return {"tables.json": json.dumps(values, indent=1) + "\n", "tables.md": markdown(grid, found)}


def markdown_lines(table: Table) -> list[str]:
    """Return a table and its notes without the title."""
    lines = [
        _row([column.replace("|", "\\|") for column in table.columns]),
        "|---" * len(table.columns) + "|",
        *(_row([cell.replace("|", "\\|") for cell in row]) for row in table.rows),
    ]
    notes = [fill(f"- {note}", PAGE_COLUMNS, subsequent_indent="  ") for note in table.notes]
    return [*lines, "", *notes] if notes else lines


def show(grid: Grid, found: Findings) -> None:
    """Print all tables."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    console.print(Text(grid.question, style="bold"))
    for table in tables_of(grid, found):
        shown = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
        for note in table.notes:
            console.print(Text(note, style="dim"))


def in_short(grid: Grid, found: Findings) -> list[Table]:
    """Return what the primary figure says of every declared contrast that has runs.

    A second table is over seeds that were not known before the declaration, where some were.
    """
    own = [c for c in found.contrasts if c.figure == grid.primary]
    tables = [_in_short(grid, found, f"In short: {grid.primary}", own)]
    if found.fresh:
        known = ", ".join(map(str, grid.known_seeds))
        title = f"In short: {grid.primary}, without seeds {known}"
        note = f"seeds {known} had been seen when this was declared"
        tables.append(_in_short(grid, found, title, found.fresh, [note]))
    return [table for table in tables if table.rows]


def _in_short(
    grid: Grid,
    found: Findings,
    title: str,
    own: Sequence[ContrastFinding],
    notes: Sequence[str] = (),
) -> Table:
    by_axis = {axis: [c for c in own if c.axis == axis] for axis in IN_SHORT}
    rows = [
        (f"{at[0].arm} − {at[0].reference}", str(n), *(cell for c in at for cell in _read(c, n)))
        for at in zip(*by_axis.values(), strict=True)
        if (n := max(c.num_seeds for c in at))
    ]
    columns = [cell for axis in IN_SHORT for cell in (f"at equal {EQUAL[axis]} [95 %]", "reads")]
    notes = [*notes, "reads: at 5 %, p adjusted for the declared contrasts (Holm)"]
    if found.num_seeds < len(grid.seeds):
        done = f"{found.num_seeds} of {len(grid.seeds)} declared seeds"
        notes.append(f"{done} so far: what it reads may change")
    return Table(title, ("arm − reference", "n", *columns), rows, notes)


def _read(c: ContrastFinding, num_seeds: int) -> tuple[str, str]:
    fewer = f", n {c.num_seeds}" if 0 < c.num_seeds < num_seeds else ""
    return _interval(c.difference) + fewer, c.reads if c.num_seeds else NOTHING


def _arms(grid: Grid, found: Findings) -> Table:
    figures = (grid.primary, grid.second, TRAINING_REWARD)
    before = ", ".join(f"{figure} {value:.3f}" for figure, value in found.before.items())
    is_unlike = len({c.num_steps for c in found.costs}) > 1
    notes = [
        f"over the {found.num_seeds} of {len(grid.seeds)} seeds that every arm has finished: mean "
        "± standard deviation",
        f"before training: {before}" if before else "",
        found.protocol,
        f"the training reward is the mean of the last {LAST_STEPS} steps",
        "each at its own end: arms differ in steps, which are under Cost of a run"
        if is_unlike
        else "",
        f"trained by the code of {', '.join(found.commits)}",
    ]
    return Table(
        "Arms",
        ("arm", "n", *figures),
        [
            (
                a.arm,
                str(found.num_seeds),
                *(_spread(a.figures.get(figure)) for figure in figures),
            )
            for a in found.arms
        ],
        [note for note in notes if note],
    )


def _contrasts(figure: str, found: Findings) -> Table:
    own = [c for c in found.contrasts if c.figure == figure]
    has_margin = any(c.margin for c in own)
    columns = [
        "arm − reference", "at equal", "n", "arm", "reference", "difference [t 95 %]",
        "[seeds × items 95 %]", "p", "p, Holm",
    ]  # fmt: skip
    columns += ["p within margin, Holm"] if has_margin else []
    # By contrast, its axes one below the other.
    ordered = sorted(range(len(own)), key=lambda i: (i % max(1, len(own) // len(STUDY_AXES)), i))
    rows = [_contrast(own[i], has_margin=has_margin) for i in ordered]
    notes = [
        f"Holm over the {len(own) // len(STUDY_AXES)} declared contrasts, each kind of equal cost "
        "by itself",
    ]
    if has_margin:
        notes.append("within margin: two one-sided t tests of the declared margin")
    if any(not c.num_seeds for c in own):
        notes.append("n 0: no pair of finished runs has figures at equal cost")
    return Table(f"Contrasts: {figure}", (*columns, "reads"), rows if own else [], notes)


def _contrast(c: ContrastFinding, *, has_margin: bool) -> tuple[str, ...]:
    shown = [
        f"{c.arm} − {c.reference}",
        EQUAL[c.axis],
        str(c.num_seeds),
        _shown(c.arm_value),
        _shown(c.reference_value),
        _interval(c.difference),
        f"[{c.bootstrap[0]:+.3f}, {c.bootstrap[1]:+.3f}]" if c.bootstrap else NOTHING,
        _probability(c.p),
        _probability(c.p_holm),
    ]
    if has_margin:
        margin = f"± {c.margin:g}: " if c.margin else ""
        shown.append(margin + _probability(c.equivalence_p_holm))
    return (*shown, c.reads if c.num_seeds else NOTHING)


def _gains(grid: Grid, found: Findings) -> Table:
    rows = [
        (
            f"{g.arm} − {g.reference}" if g.reference else g.arm,
            str(g.num_seeds),
            _interval(g.gain, digits=4),
            _interval(g.reward, digits=4),
            _interval(g.primary, digits=4),
            _interval(g.excess, digits=4),
            f"{g.num_same_sign} of {g.num_seeds}",
            f"{g.correlation.value:+.2f} [{g.correlation.low:+.2f}, {g.correlation.high:+.2f}]"
            if g.correlation
            else NOTHING,
        )
        for g in found.gains
    ]
    columns = (
        "arm − separate RL run", "n", "logged G", "training reward", grid.primary, "G − reward",
        "same sign", "r of G and reward",
    )  # fmt: skip
    notes = (
        "G: gain/pooled at the end; the other columns are differences from the RL run of the same "
        "seed at the end, with 95 % t intervals; r over seeds, with Fisher's 95 % interval",
        "all: arms share RL runs, so its rows are not independent",
    )
    return Table("How well the logged G foretells a separate RL run", columns, rows, notes)


def _diagnostics(grid: Grid, found: Findings) -> Table:
    def cell(arm: ArmFinding, name: str) -> str:
        values = arm.diagnostics[name]
        return f"{values[0]:.4f}; {values[1]:.4f}" if values else NOTHING

    rows = [(a.arm, *(cell(a, name) for name in grid.diagnostics)) for a in found.arms]
    notes = ("median over steps and seeds; mean over seeds of the last value",)
    return Table("Diagnostics", ("arm", *grid.diagnostics), rows if grid.diagnostics else [], notes)


def _diagnostic_contrasts(grid: Grid, found: Findings) -> Table:
    def cell(mean: Mean | None) -> str:
        return f"{_interval(mean, digits=4)}, n {mean.num_seeds}" if mean else NOTHING

    names = [n for n in grid.diagnostics if any(n in d.differences for d in found.diagnostics)]
    rows = [
        (f"{d.arm} − {d.reference}", *(cell(d.differences.get(name)) for name in names))
        for d in found.diagnostics
    ]
    notes = ("of the last values, with 95 % t intervals over seeds; described, not tested",)
    return Table("Diagnostics: differences", ("arm − reference", *names), rows, notes)


def _trials(grid: Grid, found: Findings) -> Table:
    rows = [
        (
            f"{t.arm}, trial {t.trial}",
            ", ".join(f"{k} {v}" for k, v in leaves(grid.trials[t.arm][t.trial - 1])) or "as it is",
            _shown(t.reward),
            "taken" if t.is_chosen else "",
        )
        for t in found.trials
    ]
    notes = (
        f"seeds {', '.join(map(str, grid.trial_seeds))}; chosen by the training reward over the "
        f"last {LAST_STEPS} steps, no held-out item counts",
    )
    return Table("Trials", ("trial", "settings", TRAINING_REWARD, ""), rows, notes)


def _costs(found: Findings) -> Table:
    rows = [
        (
            c.arm,
            str(c.num_runs),
            str(c.num_steps),
            f"{c.generated_tokens:,.0f}",
            f"{c.device_seconds:,.0f}",
            f"{c.minutes:.1f}" if c.minutes is not None else NOTHING,
        )
        for c in found.costs
    ]
    columns = ("arm", "runs", "steps", "generated tokens", "device-seconds", "minutes")
    notes = (
        "means of a run; minutes: median of the runs that were not interrupted, start-up and "
        "evaluations included",
    )
    return Table("Cost of a run", columns, rows, notes)


def _spread(mean: Mean | None) -> str:
    if mean is None:
        return NOTHING
    return f"{mean.value:.3f}" + (f" ± {mean.deviation:.3f}" if mean.deviation is not None else "")


def _interval(mean: Mean | None, digits: int = 3) -> str:
    if mean is None:
        return NOTHING
    if mean.low is None or mean.high is None:
        return f"{mean.value:+.{digits}f}"
    return f"{mean.value:+.{digits}f} [{mean.low:+.{digits}f}, {mean.high:+.{digits}f}]"


def _shown(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _probability(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
