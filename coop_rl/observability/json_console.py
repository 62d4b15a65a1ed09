"""A run for programs: one JSON object a line (`coop-rl train --json`), and nothing else on stdout.

Every object names its `kind`: plan, milestone, note, warning, step, evaluation, sample, summary.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from coop_rl.config import DerivedSizes, RunConfig
from coop_rl.evaluation.result import Comparison
from coop_rl.observability.console import RunConsole
from coop_rl.types import Reward

if TYPE_CHECKING:  # imports torch, which takes longer than all that is checked before a start
    from coop_rl.observability.metrics import Metrics


class JsonConsole(RunConsole):
    """Writes what a run says as JSON objects."""

    def line(self, text: str, style: str = "") -> None:
        """Write a note; what is not finished in words has an object of its own."""
        self._write("note", text=text)

    def warn(self, text: str) -> None:
        """Write a warning."""
        self._write("warning", text=text)

    def milestone(self, text: str) -> None:
        """Write what is going on, with the seconds since the start."""
        self._write("milestone", seconds=round(monotonic() - self._started, 1), text=text)

    def show_plan(
        self, config: RunConfig, sizes: DerivedSizes, path: Path, resume_from: Path | None
    ) -> None:
        """Write the config; sizes follow from it."""
        self._write(
            "plan",
            config=config.model_dump(mode="json"),
            run_directory=str(path),
            resumes_from=str(resume_from) if resume_from else None,
        )

    def begin(self, first_step: int, num_steps: int) -> None:
        """Show nothing: each step says where it is."""

    def step(self, metrics: "Metrics") -> None:
        """Write a step's row."""
        self._write("step", **metrics)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write an evaluation's figures."""
        self._write("evaluation", **{"step": step, **metrics})

    def sample(self, prompt: str, response: str, reward: Reward) -> None:
        """Write a response, with its verdict."""
        self._write(
            "sample",
            prompt=prompt,
            response=response,
            reward=reward.value,
            is_correct=reward.is_correct,
            status=reward.status,
        )

    def summary(self, path: Path, comparisons: Sequence[Comparison], duration_s: float) -> None:
        """Leave it to `conclude`, which has the whole."""
        self._path = path

    def conclude(self, lines: Sequence[str]) -> None:
        """Write what summary.json holds."""
        file = self._path / "summary.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if not found:
            self.notes(lines)
        self._write("summary", run_directory=str(self._path), **found)

    def _write(self, kind: str, **values: Any) -> None:
        said = {"kind": kind, **{name: _finite(value) for name, value in values.items()}}
        # In ASCII: some of Unicode steers terminals too, and half characters have no UTF-8.
        self._console.file.write(json.dumps(said, allow_nan=False) + "\n")
        self._console.file.flush()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
