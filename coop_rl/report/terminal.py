"""`coop-rl compare` in the terminal: what was run, then each arm less the first at equal cost."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coop_rl.observability.console import clean
from coop_rl.report.arms import Arm, differing_settings
from coop_rl.report.comparison import TOLERANCE, Difference
from coop_rl.report.stored_run import AXES, flatten

FILE_COLUMNS = 120
"""Columns of what goes into a file or pipe."""
MAX_FIELDS = 12
"""Fields of the config that the terminal shows; the report has them all."""


def show_comparison(arms: Sequence[Arm], differences: Sequence[Difference]) -> None:
    """Print the arms and their differences."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    console.print(arms_table(arms))
    if fields := differing_settings(arms):
        console.print(config_table(arms, fields[:MAX_FIELDS]))
        if more := len(fields[MAX_FIELDS:]):
            console.print(Text(f"and {more} more fields; coop-rl report shows all", style="dim"))
    for other in arms[1:]:
        own = [d for d in differences if d.other == other.name]
        console.print(differences_table(own))
    running = [
        run.name for arm in arms for run in arm.runs if run.status.get("status") == "running"
    ]
    if running:
        console.print(Text(f"still running: {clean(', '.join(running))}; as of now", style="dim"))
    for note in notes(differences):
        console.print(Text(note, style="dim"))


def arms_table(arms: Sequence[Arm]) -> Table:
    """Return one row an arm: what it has spent."""
    table = _table("arms; the first is the reference")
    for name in ("arm", "runs", "seeds", "steps", "tokens", "device-seconds", "status"):
        is_text = name in ("arm", "seeds", "status")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for arm in arms:
        spent = [[(run.costs(axis) or [0.0])[-1] for run in arm.runs] for axis in AXES]
        statuses = sorted({str(run.status.get("status", "unknown")) for run in arm.runs})
        table.add_row(
            Text(clean(arm.name)),
            str(len(arm.runs)),
            ", ".join(map(str, arm.by_seed)),
            *(_span(values) for values in spent),
            clean(", ".join(statuses)),
        )
    return table


def config_table(arms: Sequence[Arm], fields: Sequence[str]) -> Table:
    """Return the values of some fields of the config, a column an arm."""
    table = _table("fields in which the arms differ")
    for name in ("field", *(clean(arm.name) for arm in arms)):
        table.add_column(name, overflow="fold")
    flats = [flatten(arm.runs[0].config) for arm in arms]
    for field in fields:
        table.add_row(clean(field), *(Text(clean(str(flat.get(field, "–")))) for flat in flats))
    return table


def differences_table(differences: Sequence[Difference]) -> Table:
    """Return one arm less the reference: a row for each figure and each result."""
    reference, other = clean(differences[0].reference), clean(differences[0].other)
    table = _table(f"{other} less {reference}, 95 % intervals")
    for name in ("figure", "at equal", reference, other, "difference", "interval over"):
        is_number = name in (reference, other)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    figures = dict.fromkeys(d.figure for d in differences)
    for figure in figures:
        for axes, d in _merged([d for d in differences if d.figure == figure]):
            if d.value is None:
                table.add_row(clean(figure), axes, "", "", Text(d.over, style="dim"), "")
                continue
            values = [f"{v:.3f}" for v in (d.reference_value, d.other_value) if v is not None]
            over = d.over if d.low is not None else f"none, {d.over}"
            table.add_row(clean(figure), axes, *values, _difference(d), over)
        table.add_section()
    return table


def notes(differences: Sequence[Difference]) -> Iterator[str]:
    """Yield what one must know to read the tables."""
    found = [d for d in differences if d.value is not None]
    if any(d.over.endswith("1 seed") for d in found):
        yield (
            "1 seed: the interval is over the items of one run each; other seeds may differ by "
            "more. Give runs of several seeds for an interval over them."
        )
    if any(d.value is None for d in differences):
        yield (
            f"equal cost: evaluations within {TOLERANCE:.0%} of each other; with evaluation.every "
            "runs have some on the way."
        )
    if any(d.is_lower_better for d in found):
        yield "a loss is better when lower."


def _merged(differences: Sequence[Difference]) -> Iterator[tuple[str, Difference]]:
    """Yield the differences of one figure, those that are the same on several axes once."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for d in differences:
        key = (d.value, d.low, d.high, d.reference_value, d.other_value, d.over)
        groups.setdefault(key, []).append(d)
    for group in groups.values():
        yield ", ".join(d.axis.replace("_", "-") for d in group), group[0]


def _difference(d: Difference) -> Text:
    if d.low is None or d.high is None:
        return Text(f"{d.value:+.3f}")
    is_sure = d.low > 0 or d.high < 0
    style = ("green" if (d.low > 0) != d.is_lower_better else "red") if is_sure else ""
    return Text(f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]", style=style)


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f}–{high:,.0f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
