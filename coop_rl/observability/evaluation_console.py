"""What `coop-rl evaluate` shows in the terminal: progress while it works, then tables."""

from collections.abc import Mapping, Sequence
from time import monotonic

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coop_rl.evaluation.estimators import Estimate
from coop_rl.evaluation.result import Comparison, EvaluationResult
from coop_rl.metric_names import EVALUATION
from coop_rl.observability.terminal import Terminal

FILE_COLUMNS = 120
"""Columns of what goes into a file or pipe."""
ENDLESS_COLUMNS = 10_000
LINE_EVERY_S = 30.0
"""Into a file or pipe: seconds between lines of progress."""


class EvaluationConsole(Terminal):
    """Prints milestones, progress and tables of `coop-rl evaluate`."""

    def __init__(self, console: Console | None = None) -> None:
        """Print to stdout, or to `console`."""
        super().__init__(console)
        if console is None and not self._console.is_terminal:
            self._console.width = FILE_COLUMNS
        self._last_line = monotonic()
        self._name, self._done, self._total = "", 0, 0

    def begin(self, name: str, total: int) -> None:
        """Start counting the `total` prompts of a set (each is asked greedy and sampled)."""
        self._name, self._done, self._total = name, 0, total
        self._last_line = monotonic()
        self._show_bar(name, total)

    def advance(self) -> None:
        """Count one prompt."""
        self._done += 1
        self._move_bar(self._done)
        if not self._progress and monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = monotonic()
            self.milestone(f"{self._name}  {self._done}/{self._total} prompts")

    def end(self, result: EvaluationResult) -> None:
        """Take the progress bar away and print the set's speed."""
        self.close()
        self.milestone(
            f"{result.name}: {len(result.ids)} items, {result.num_tokens:,} tokens in "
            f"{result.seconds:.1f} s, {result.num_tokens / max(result.seconds, 1e-9):,.0f} tokens/s"
        )

    def table(self, name: str, results: Sequence[EvaluationResult]) -> None:
        """Print a model's figures on all sets: a row each, or a block where that is too wide."""
        table = results_table(name, results)
        unbounded = self._console.options.update(max_width=ENDLESS_COLUMNS)
        if self._console.measure(table, options=unbounded).maximum > self._console.width:
            table = results_list(name, results)
        self._console.print(table)

    def differences(
        self, before: str, after: str, comparisons: Sequence[Comparison], skipped: Sequence[str]
    ) -> None:
        """Print a model's figures less the first model's; `skipped` sets had other items."""
        for comparison in comparisons:
            titles = (before, after)
            self._console.print(comparison_table(comparison, titles))
        for name in skipped:
            self.milestone(f"{name}: not compared, the two were measured on different items")


def results_table(name: str, results: Sequence[EvaluationResult]) -> Table:
    """Return one row per set; all have the same figures. Intervals stand below their figures."""
    table = Table(
        title=f"{name}, 95 % intervals below", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    figures = list(results[0].estimates)
    table.add_column("set")
    for column in (*figures, *_about_responses(results[0])):
        table.add_column(column, justify="right")
    for result in results:
        estimates = result.estimates
        table.add_row(
            f"{result.name}\n{len(result.ids):,} items",
            *(_stacked(estimates[figure]) for figure in figures),
            *_about_responses(result).values(),
        )
    return table


def results_list(name: str, results: Sequence[EvaluationResult]) -> Table:
    """Return the results with one row per set and figure, for narrow terminals."""
    table = Table(title=f"{name}, 95 % intervals", title_justify="left", box=SIMPLE_HEAD)
    for column in ("set", "figure", "value"):
        table.add_column(column)
    for result in results:
        shown = {figure: show_estimate(e) for figure, e in result.estimates.items()}
        for figure, value in {**shown, **_about_responses(result)}.items():
            is_first = figure == next(iter(shown))
            table.add_row(f"{result.name} ({len(result.ids):,})" if is_first else "", figure, value)
        table.add_section()
    return table


def comparison_table(comparison: Comparison, titles: tuple[str, str] | None = None) -> Table:
    """Return one row per figure: before, after, paired difference."""
    before, after = comparison.before, comparison.after
    table = Table(
        title=f"{comparison.name}, {len(after.ids)} items, 95 % intervals", title_justify="left"
    )
    if titles is None:
        titles = f"before ({before.step} steps)", f"after ({after.step} steps)"
    for column in ("", *titles, "difference (paired)"):
        table.add_column(column)
    for figure, difference in comparison.differences.items():
        first, last = (show_estimate(r.estimates[figure]) for r in (before, after))
        table.add_row(figure, first, last, show_estimate(difference, "+.3f"))
    return table


def _about_responses(result: EvaluationResult) -> dict[str, str]:
    return {
        "tokens": f"{result.length_mean:.0f}",
        "cut off": f"{result.truncated:.1%}",
        "format": f"{result.format:.1%}",
        "unscored": f"{result.unscored:.1%}",
    }


def _stacked(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}\n{estimate.low:.2f}–{estimate.high:.2f}"


def show_estimate(estimate: Estimate, form: str = ".3f") -> str:
    """Return `value [low, high]`."""
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def show_metrics(metrics: Mapping[str, float]) -> str:
    """Return the accuracies among evaluation metrics, with intervals, and what else is watched."""
    parts = []
    for name, value in metrics.items():
        if f"{name}_low" in metrics:
            estimate = Estimate(value, metrics[f"{name}_low"], metrics[f"{name}_high"])
            parts.append(f"{name.removeprefix(EVALUATION)} {show_estimate(estimate)}")
        elif name.endswith(("/nll", "/audit")):
            parts.append(f"{name.removeprefix(EVALUATION)} {value:.4f}")
    return ", ".join(parts)
