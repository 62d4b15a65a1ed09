"""What stands below the lines of a run on a terminal; `console.RunConsole` shows it.

Curves of reward and accuracy, the gain with its error, guidance, where the step's time went, who of
the actors answers, and the bar with the time that is left. What the method does not have takes no
place.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from coop_rl.errors import printable
from coop_rl.metric_names import REWARD, STEP_SECONDS

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=*#"
CURVE_COLUMNS = 32
SMALL_SHARE = 0.02
"""Stages below this share of a step's time are counted together."""
WEIGHT = "guidance/weight/"
SILENT_S = 10.0
"""An actor that has owed an answer for so long is named: each is asked every 5 s, and a step of the
driver may stand between an answer and its reading."""

Row = Mapping[str, float | None]


def sparkline(values: Sequence[float], columns: int, marks: str = BLOCKS) -> str:
    """Return a curve from the lowest to the highest value, each column the mean of its steps."""
    num_columns = min(columns, len(values))
    bounds = [len(values) * i // num_columns for i in range(num_columns + 1)] if values else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((mean - low) * scale)] for mean in means)


def gain_text(row: Row) -> str:
    """Return the gain over the last measurements: one step's is mostly noise."""
    value, stderr = row.get("gain/pooled"), row.get("gain/pooled_stderr")
    if value is None:
        return ""
    return f"gain {value:+.4f}" + ("" if stderr is None else f" ± {stderr:.4f}")


def guidance_text(row: Row) -> str:
    """Return lambda, where both losses count, and the weights of the sources."""
    mix = row.get("guidance/mix")
    parts = [f"λ {mix:.2f}"] if mix is not None and 0.0 < mix < 1.0 else []
    for name, value in row.items():
        if name.startswith(WEIGHT) and value is not None:
            parts.append(f"{name.removeprefix(WEIGHT)} {value:.2f}")
    return "guidance " + "  ".join(parts) if parts else ""


def time_text(row: Row) -> str:
    """Return where the time of a step went, the longest stage first."""
    total = row.get(STEP_SECONDS) or 0.0
    stages = {
        name.removeprefix("time/").removesuffix("_s"): value
        for name, value in row.items()
        if name.startswith("time/") and name.count("/") == 1 and name != STEP_SECONDS and value
    }
    if not total or not stages:
        return ""
    shown = {name: value for name, value in stages.items() if value >= SMALL_SHARE * total}
    rest = max(0.0, total - sum(shown.values()))
    order = sorted(shown.items(), key=lambda stage: -stage[1])
    parts = [f"{name} {value / total:.0%}" for name, value in order]
    if rest >= SMALL_SHARE * total:
        parts.append(f"other {rest / total:.0%}")
    return "time " + "  ".join(parts)


def health_text(waits: Mapping[str, Any]) -> str:
    """Return how the actors are, in what a run writes into waiting.json."""
    actors = waits["actors"]
    odd = {name: text for name, beat in actors.items() if (text := _oddity(beat))}
    if not actors:
        return ""
    if not odd:
        return f"{len(actors)} actors, all answer" if len(actors) > 1 else "1 actor, answers"
    named = [f"{name} {text}" for name, text in odd.items()]
    return "  ".join([f"{len(actors) - len(odd)} of {len(actors)} actors answer", *named])


def _oddity(beat: Mapping[str, Any]) -> str:
    stopped = [child["name"] for child in beat["children"] if child["state"] == "stopped"]
    if stopped:
        return f"has {', '.join(stopped)} stopped"
    return f"silent {beat['silent_s']:.0f} s" if beat["silent_s"] >= SILENT_S else ""


class LiveView(Progress):
    """Lines about the last step, and the bar below them."""

    def __init__(self, console: Console, num_steps: int, first_step: int) -> None:
        """Stand still until `start`."""
        # The constructor draws already.
        self._terminal = console
        self._curves: dict[str, list[float]] = {REWARD: [], "reward/accuracy": []}
        self._row: Row = {}
        self._health = ""
        super().__init__(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar = self.add_task("", total=num_steps, completed=first_step, left="")

    def step(self, row: Row, num_done: int, left_s: float) -> None:
        """Show a step."""
        self._row = row
        for name, values in self._curves.items():
            value = row.get(name)
            if value is not None:
                values.append(value)
        left = f"{timedelta(seconds=round(left_s))} left"
        self.update(self._bar, completed=num_done, left=left, refresh=True)

    def health(self, waits: Mapping[str, Any]) -> None:
        """Show how the actors are."""
        self._health = health_text(waits)
        self.refresh()

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the lines, none of which is wider than the terminal, and the bar."""
        for line in self._lines():
            yield Text(printable(line), style="dim", no_wrap=True, overflow="ellipsis")
        yield self.make_tasks_table(self.tasks)

    def _lines(self) -> Iterator[str]:
        marks = ASCII_BLOCKS if self._terminal.options.ascii_only else BLOCKS
        columns = min(CURVE_COLUMNS, max(8, self._terminal.width // 2 - 22))
        curves = [
            f"{name.rpartition('/')[2] if name != REWARD else 'reward'} "
            f"{sparkline(values, columns, marks)} {values[-1]:.3f}"
            for name, values in self._curves.items()
            if values
        ]
        gain, age = gain_text(self._row), self._row.get("gain/shadow_age")
        if gain and age is not None:
            gain += f", shadow age {age:.0f}"
        generated, step_s = self._row.get("tokens/generated"), self._row.get(STEP_SECONDS)
        spent = time_text(self._row)
        if generated and step_s:
            spent += f"  {generated / step_s:,.0f} tokens/s"
        both = [part for part in (gain, guidance_text(self._row)) if part]
        fits = len("   ".join(both)) <= self._terminal.width
        lines = ["   ".join(curves), *(["   ".join(both)] if fits else both), spent.strip()]
        lines.append(self._health)
        yield from filter(None, lines)
