"""Where each second of the profiled steps went, by actor; `driver.profiling` calls it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from coop_rl.tracing.trace import Span, busy_ns, self_ns

NS_PER_S = 10**9
OUTER = frozenset({"step"})
"""Spans that only hold others: their own time is what no other span explains."""


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """What one actor spent on one thing."""

    actor: str
    what: str
    seconds: float
    share: float
    """The same as a share of the profiled time."""


def where_time_went(
    tracks: Mapping[str, Sequence[Span]], start_ns: int, end_ns: int
) -> list[TimeSpent]:
    """Return what each actor did between two times, longest first, then its waiting.

    Args:
        tracks: Spans per actor.
        start_ns: Begin of the profiled time, wall clock.
        end_ns: Its end.

    Returns:
        Of nested spans the inner ones count, so an actor's rows sum to the profiled time. Where
        spans of one name overlap (requests of an engine), the time in which at least one was open.
        Where several threads worked at once, their rows sum to more.
    """
    total_s = (end_ns - start_ns) / NS_PER_S
    rows: list[TimeSpent] = []
    for actor, spans in tracks.items():
        inside = [_clip(s, start_ns, end_ns) for s in spans]
        inside = [s for s in inside if s.end_ns > s.start_ns]
        spent = self_ns([s for s in inside if not s.overlaps])
        for name in sorted({s.name for s in inside if s.overlaps}):
            several = [s for s in inside if s.overlaps and s.name == name]
            spent[name] = busy_ns(several, start_ns, end_ns)
        ordered = sorted(spent.items(), key=lambda item: -item[1])
        named = [(f"{n}: the rest" if n in OUTER else n, ns) for n, ns in ordered]
        named.append(("waits", end_ns - start_ns - busy_ns(inside, start_ns, end_ns)))
        rows += [TimeSpent(actor, n, ns / NS_PER_S, ns / NS_PER_S / total_s) for n, ns in named]
    return rows


def markdown(rows: Sequence[TimeSpent]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| actor | what | seconds | share |", "|---|---|---|---|"]
    lines += [f"| {r.actor} | {r.what} | {r.seconds:.3f} | {r.share:.1%} |" for r in rows]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[TimeSpent], title: str) -> Table:
    """Return the rows for a terminal; what took less than a thousandth is left out."""
    shown = Table(title=title, title_justify="left")
    for name in ("actor", "what"):
        shown.add_column(name)
    for name in ("seconds", "share"):
        shown.add_column(name, justify="right")
    last = ""
    for row in rows:
        if row.share >= 0.001:
            name = row.actor if row.actor != last else ""
            shown.add_row(name, row.what, f"{row.seconds:.2f}", f"{row.share:.1%}")
            last = row.actor
    return shown


def _clip(item: Span, start_ns: int, end_ns: int) -> Span:
    start, end = max(item.start_ns, start_ns), min(item.end_ns, end_ns)
    return Span(item.name, start, end, item.thread, item.overlaps)
