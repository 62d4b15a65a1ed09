"""What a training run shows in the terminal; `observer` and `commands.train` call it.

One line a step. What models wrote is never interpreted: no markup, no control characters.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from coop_rl.config import DerivedSizes, RunConfig
from coop_rl.config.sizes import mix_and_penalty, weight_backend, zero_stage
from coop_rl.data.rows import Dropped
from coop_rl.evaluation.result import Comparison
from coop_rl.metric_names import DEVICE_SECONDS, LEDGER, REWARD, STEP_SECONDS
from coop_rl.observability.evaluation_console import comparison_table, show_metrics
from coop_rl.observability.live_view import LiveView, gain_text
from coop_rl.observability.profile import TimeSpent, table
from coop_rl.observability.terminal import Terminal
from coop_rl.rollout.capacity import sequences_at_once
from coop_rl.types import Reward

if TYPE_CHECKING:  # imports torch, which takes longer than all that is checked before a start
    from coop_rl.observability.metrics import Metrics

SAMPLE_CHARACTERS = 160
"""Characters of a prompt or response that a sample line shows."""


def clean(text: str, width: int = SAMPLE_CHARACTERS) -> str:
    """Return text that is safe to print on one line: line breaks shown, control characters gone."""
    shown = text.replace("\r\n", "\n").replace("\n", "⏎")
    # Cc and Cf hold escape sequences, NUL, and the marks that turn the writing direction around.
    safe = "".join(
        c for c in shown if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return safe if len(safe) <= width else safe[: width - 1] + "…"


class RunConsole(Terminal):
    """Prints a run's plan, milestones, steps and summary."""

    def __init__(self, console: Console | None = None, *, is_quiet: bool = False) -> None:
        """Print to stdout, or to `console`; where it is quiet, only evaluations and the summary."""
        super().__init__(console)
        self._is_quiet = is_quiet
        self._num_steps = 0
        self._view: LiveView | None = None
        self._steps_done: list[float] = []
        self._spent: dict[str, float] = {}
        self._totals = {"tokens": 0.0, "applied": 0, "skipped": 0, "w_applied": 0, "w_skipped": 0}

    def show_plan(
        self, config: RunConfig, sizes: DerivedSizes, path: Path, resume_from: Path | None
    ) -> None:
        """Print every derived size, before anything starts."""
        if self._is_quiet:
            return
        table = Table(title=f"{config.run.name}: {config.method.kind}", title_justify="left")
        table.add_column("size")
        table.add_column("value", justify="right")
        table.add_column("from", overflow="fold")
        for name, value, origin in _plan_rows(config, sizes):
            table.add_row(name, value, origin)
        self._console.print(table)
        if resume_from:
            self.line(f"resumes from {resume_from}")
        self.line(f"run directory {path}")

    def dropped(self, sources: Sequence[Dropped]) -> None:
        """Print what was left out of the data, and why; nothing where nothing was."""
        for source in sources:
            if source.total:
                share = source.total / source.num_rows
                self.line(
                    f"{source.origin}: {source.total:,} of {source.num_rows:,} rows left out "
                    f"({share:.1%})"
                )
            for kind, count, message in source.kinds:
                self.line(f"  {count:,} x {kind}; the first: {clean(message)}", "dim")

    def warn(self, text: str) -> None:
        """Print a line that should not be overlooked."""
        self.line(text, "yellow")

    def notes(self, lines: Sequence[str]) -> None:
        """Print lines about the run."""
        for line in lines:
            self.line(line)

    def milestone(self, text: str) -> None:
        """Print what is going on, with the seconds since the start."""
        if not self._is_quiet:
            super().milestone(text)

    def begin(self, first_step: int, num_steps: int) -> None:
        """Start counting steps; on a terminal, show how the run stands below the lines."""
        self._num_steps = num_steps
        if not self._is_quiet and self._console.is_terminal:
            self._view = LiveView(self._console, num_steps, first_step)
            self._progress = self._view
            self._view.start()

    def step(self, metrics: "Metrics") -> None:
        """Print one step."""
        step = int(metrics["step"] or 0)
        duration_s = metrics.get(STEP_SECONDS) or 0.0
        self._steps_done.append(duration_s)
        self._count(metrics)
        self._spent = {
            k: v or 0.0 for k, v in metrics.items() if k.startswith((LEDGER, DEVICE_SECONDS))
        }
        if self._is_quiet:
            return
        done = step + 1
        mean_s = sum(self._steps_done) / len(self._steps_done)
        remaining = max(0, self._num_steps - done) * mean_s
        generated = metrics.get("tokens/generated") or 0.0
        parts = [
            (0, f"step {done:>{len(str(self._num_steps))}}/{self._num_steps}"),
            (1, _named("reward", metrics.get(REWARD))),
            (6, _named("accuracy", metrics.get("reward/accuracy"))),
            (2, gain_text(metrics)),
            (4, _named("sft", metrics.get("loss/sft"))),
            (7, f"{generated / duration_s:,.0f} tokens/s" if generated and duration_s else ""),
            (5, f"{duration_s:.1f} s"),
            (3, f"{_duration(remaining)} left"),
        ]
        self.line(fitting(parts, self._console.width))
        if self._view:
            self._view.step(metrics, done, remaining)

    def health(self, waits: Mapping[str, Any]) -> None:
        """Show how the actors are, on a terminal; `waits` is what waiting.json holds."""
        if self._view:
            self._view.health(waits)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print what an evaluation found."""
        self.line(f"evaluated after {step} steps: {show_metrics(metrics)}", "bold")

    def profile(self, rows: Sequence[TimeSpent], steps: str, folder: Path) -> None:
        """Print where the seconds of the profiled steps went."""
        self._console.print(table(rows, f"where the seconds went, {steps}"))
        self.line(f"trace for ui.perfetto.dev: {folder / 'trace.json'}")

    def sample(self, prompt: str, response: str, reward: Reward) -> None:
        """Print one response of the model."""
        if self._is_quiet:
            return
        verdict = "right" if reward.is_correct else "wrong"
        if reward.status != "scored":
            verdict = reward.status
        self.line(f"sample  {clean(prompt)}  ->  {clean(response)}  ({verdict})", "dim")

    def summary(self, path: Path, comparisons: Sequence[Comparison], duration_s: float) -> None:
        """Print before against after, and what the run did."""
        self.close()
        for comparison in comparisons:
            self._console.print(comparison_table(comparison))
        totals = self._totals
        if self._spent:
            self.line(_spent(self._spent))
        done = (
            f"{len(self._steps_done)} steps in {_duration(duration_s)}; "
            f"{totals['tokens']:,.0f} tokens generated; "
            f"updates of theta: {totals['applied']:.0f} applied, {totals['skipped']:.0f} skipped"
        )
        if totals["w_applied"] + totals["w_skipped"] > 0:
            done += f"; of w: {totals['w_applied']:.0f} applied, {totals['w_skipped']:.0f} skipped"
        self.line(done)
        self.line(f"run directory {path}")

    def conclude(self, lines: Sequence[str]) -> None:
        """Print what was written into the run directory at its end, and what one does next."""
        self.notes(lines)

    def _count(self, metrics: "Metrics") -> None:
        self._totals["tokens"] += metrics.get("tokens/generated") or 0.0
        has_w = metrics.get("guidance/adapter_norm") is not None
        for metric, prefix in (("grad/skipped", ""), ("guidance/skipped", "w_")):
            value = metrics.get(metric) if has_w or not prefix else None
            if value is not None:
                self._totals[prefix + ("skipped" if value else "applied")] += 1


def _plan_rows(config: RunConfig, sizes: DerivedSizes) -> list[tuple[str, str, str]]:
    rollout, learner = config.rollout, config.learner
    rows = [
        ("steps", f"{config.run.num_steps:,}", "run.num_steps"),
        (
            "optimiser steps",
            f"{sizes.optimizer_steps:,}",
            f"x learner.num_minibatches {learner.num_minibatches} x num_epochs "
            f"{learner.num_epochs}",
        ),
        ("prompts per step", f"{sizes.num_prompts:,}", "prompts.per_step"),
        (
            "samples per step",
            f"{sizes.num_samples:,}",
            f"x rollout.samples_per_prompt {rollout.samples_per_prompt}",
        ),
        ("demonstrations per step", f"{sizes.num_demonstrations:,}", "demonstrations.per_step"),
        ("longest response", f"{sizes.max_response_tokens:,} tokens", "rollout.max_tokens"),
        (
            "learner ranks per branch",
            f"{sizes.num_ranks}",
            f"learner.num_ranks, ZeRO {zero_stage(config)}",
        ),
        ("samples per rank", f"{sizes.samples_per_rank:,}", ""),
        ("demonstrations per rank", f"{sizes.demonstrations_per_rank:,}", ""),
        (
            "micro-batch",
            f"{sizes.micro_batch_tokens:,} tokens",
            "padded, at most; accumulated until a rank's rows are through",
        ),
        (
            "rollout actors",
            f"{rollout.num_actors}",
            f"tensor parallel {rollout.tensor_parallel_size}",
        ),
        ("sequences at once per actor", f"{sequences_at_once(config):,}", "rollout.max_num_seqs"),
        ("weight sync", weight_backend(config), f"sync.backend {config.sync.backend}"),
    ]
    if config.method.is_guided:
        share = " / ".join(f"{value:g}" for value in mix_and_penalty(config))
        rows.append(("mix / penalty", share, "share of RL in theta's, of bracket in w's step"))
        rows.append(("guidance", ", ".join(config.meta.guidance), "what is tuned beside theta"))
    for role, cpus in sizes.cpus.items():
        gpus = sizes.gpus.get(role, 0.0)
        if cpus or gpus:
            rows.append((f"{role} devices", f"{cpus:g} CPU, {gpus:g} GPU", "placement"))
    rows.append(
        ("all devices", f"{sizes.total_cpus:g} CPU, {sizes.total_gpus:g} GPU", "reserved in Ray")
    )
    return rows


def fitting(parts: Sequence[tuple[int, str]], width: int) -> str:
    """Return the parts in a line of at most `width` columns: those of the highest numbers go first.

    Empty parts are what the step, or the method, does not have.
    """
    shown = [part for part in parts if part[1]]
    while len(line := "  ".join(text for _, text in shown)) > width and len(shown) > 1:
        shown.remove(max(shown))
    return line


def _spent(totals: Mapping[str, float]) -> str:
    """Return the ledger in a line, the steps before a resume included."""
    tokens = {k: totals[f"{LEDGER}tokens_{k}"] for k in ("generated", "rl", "sft", "shadow")}
    device_s = sum(value for name, value in totals.items() if name.startswith(DEVICE_SECONDS))
    return (
        f"spent: {tokens['generated']:,.0f} tokens generated; trained {tokens['rl']:,.0f} rl, "
        f"{tokens['sft']:,.0f} sft, {tokens['shadow']:,.0f} shadow; "
        f"{totals[LEDGER + 'updates']:,.0f} optimiser steps; "
        f"{totals[LEDGER + 'demonstrations']:,.0f} demonstrations; "
        f"{totals[LEDGER + 'flops']:.2g} FLOP; {device_s:,.0f} device-seconds"
    )


def _named(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {value:.3f}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
