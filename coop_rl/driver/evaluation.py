"""The loop's role `Evaluation`: a run's sets before training, after it and every n steps.

<run>/evaluations/step-000010/<set>.responses.jsonl    every response with its verdict
                              <set>.json               the figures, written last
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from coop_rl.config import RunConfig
from coop_rl.evaluation.measure import Asking, Generate, answered, ask
from coop_rl.evaluation.result import Comparison, EvaluationResult, compare
from coop_rl.evaluation.sets import EvaluationSet
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion


class Evaluator:
    """Implements `algorithm.roles.Evaluation`."""

    def __init__(
        self,
        config: RunConfig,
        sets: Sequence[EvaluationSet],
        generate: Generate,
        stages: Stages,
        folder: Path | None = None,
    ) -> None:
        """Evaluate `sets` with `generate`.

        Args:
            config: The run; sections `evaluation`, `rollout` and `run` count.
            sets: What is measured.
            generate: Samples and scores groups at a version.
            stages: Timers.
            folder: Where results are kept item by item, so that a resumed run can compare with the
                base model; None: in memory only.
        """
        self._config = config
        self._sets = sets
        self._generate = generate
        self._stages = stages
        self._folder = folder
        self._results: dict[str, dict[int, EvaluationResult]] = {}

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        return self._config.evaluation.is_due(step, self._config.run.num_steps)

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Evaluate when due; returns metrics, empty when not due."""
        if not self.is_due(step):
            return {}
        with self._stages.stage("evaluate"):
            return answered(self.ask(step), self._generate, version)

    def ask(self, step: int) -> Asking[Mapping[str, float]]:
        """Ask for the groups of all sets, keep what is found, and return the metrics."""
        metrics: dict[str, float] = {}
        folder = self._folder / f"step-{step:06d}" if self._folder else None
        for chosen in self._sets:
            responses = folder / f"{chosen.name}.responses.jsonl" if folder else None
            result = yield from ask(self._config, chosen, step, responses)
            if folder:
                result.write(folder / f"{chosen.name}.json")
            self._results.setdefault(chosen.name, {})[step] = result
            metrics |= result.metrics()
        return metrics

    def unfinished(self, before: int) -> list[int]:
        """Return the steps before `before` whose evaluation was begun and did not end."""
        folders = self._folder.glob("step-*") if self._folder else ()
        steps = [
            int(folder.name.removeprefix("step-"))
            for folder in folders
            if not all((folder / f"{chosen.name}.json").is_file() for chosen in self._sets)
        ]
        return sorted(step for step in steps if step < before)

    def comparisons(self) -> list[Comparison]:
        """Return, for each set, this run's earliest result against its latest, where it has two."""
        found = []
        for name, results in self._results.items():
            after = results[max(results)]
            earlier = {s: r for s, r in (self._read_all(name) | results).items() if s < after.step}
            comparison = compare(earlier[min(earlier)], after) if earlier else None
            if comparison:
                found.append(comparison)
        return found

    def _read_all(self, name: str) -> dict[int, EvaluationResult]:
        """Return what an earlier part of this run kept."""
        paths = self._folder.glob(f"step-*/{name}.json") if self._folder else ()
        results = [EvaluationResult.read(path) for path in paths]
        return {result.step: result for result in results}
