"""Evaluates on held-out prompts through the rollout actors; the loop's role `Evaluation`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coop_rl.config import RunConfig
from coop_rl.errors import RunError
from coop_rl.evaluation.estimators import (
    Estimate,
    bootstrap_mean,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from coop_rl.observability.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings, ScoredGroup

Generate = Callable[[Sequence[Prompt], SamplingSettings, PolicyVersion], Sequence[ScoredGroup]]
EVALUATION_SEED = 1_000_003_000_001
"""Sampling seed of every evaluation, far from those of training steps: the same random numbers
before and after, so the paired difference has less noise."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What one evaluation found, item by item; P items in file order."""

    step: int
    """Steps trained before it; 0: the base model."""
    ids: tuple[str, ...]
    greedy_correct: tuple[bool, ...]
    """Whether the greedy response is right."""
    num_correct: tuple[int, ...]
    """Right ones among `num_samples` sampled responses."""
    num_samples: int
    truncated: float
    """Share of all responses that hit the token limit."""
    length_mean: float
    """Tokens per response."""
    unscored: float
    """Share of all responses whose verifier timed out or crashed."""

    @property
    def pass_at_1(self) -> Estimate:
        """Greedy accuracy, Wilson interval."""
        return wilson_interval(sum(self.greedy_correct), len(self.ids))

    @property
    def average(self) -> Estimate:
        """avg@num_samples, bootstrap over items."""
        return bootstrap_mean([c / self.num_samples for c in self.num_correct])

    def metrics(self, name: str) -> dict[str, float]:
        """Return the figures under their metric names."""
        n = self.num_samples
        named = {"pass@1": self.pass_at_1, f"avg@{n}": self.average}
        if n > 1:
            solved = [pass_at_k(n, c, n) for c in self.num_correct]
            named[f"pass@{n}"] = bootstrap_mean(solved)
        figures = {
            "truncated": self.truncated,
            "length_mean": self.length_mean,
            "unscored": self.unscored,
        }
        for key, estimate in named.items():
            figures |= {
                key: estimate.value,
                f"{key}_low": estimate.low,
                f"{key}_high": estimate.high,
            }
        return {f"eval/{name}/{key}": value for key, value in figures.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first evaluation against the last, on the same items."""

    name: str
    before: EvaluationResult
    after: EvaluationResult

    @property
    def pass_at_1_difference(self) -> Estimate:
        """After less before, greedy; paired bootstrap over items."""
        return paired_difference(
            [float(c) for c in self.before.greedy_correct],
            [float(c) for c in self.after.greedy_correct],
        )

    @property
    def average_difference(self) -> Estimate:
        """After less before, avg@k; paired bootstrap over items."""
        before, after = [
            [c / result.num_samples for c in result.num_correct]
            for result in (self.before, self.after)
        ]
        return paired_difference(before, after)


class Evaluator:
    """Implements `algorithm.roles.Evaluation`: before training, after it, and every n steps."""

    def __init__(
        self,
        config: RunConfig,
        held_out: Sequence[Prompt],
        generate: Generate,
        stages: Stages,
        folder: Path | None = None,
    ) -> None:
        """Evaluate `held_out` with `generate`.

        Args:
            config: The run; sections `evaluation`, `rollout` and `run` count.
            held_out: The items.
            generate: Samples and scores groups at a version.
            stages: Timers.
            folder: Where results are kept item by item, so that a resumed run can compare with the
                base model; None: in memory only.
        """
        self._section = config.evaluation
        self._max_tokens = config.rollout.max_tokens
        self._num_steps = config.run.num_steps
        self._held_out = held_out
        self._generate = generate
        self._stages = stages
        self._folder = folder
        self._results: dict[int, EvaluationResult] = {}

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after `step` steps."""
        every = self._section.every
        return step in (0, self._num_steps) or (every > 0 and step % every == 0)

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Evaluate when due; returns metrics, empty when not due."""
        if not self.is_due(step) or not self._held_out:
            return {}
        with self._stages.stage("evaluate"):
            result = self._run(step, version)
        self._results[step] = result
        self._write(result)
        return result.metrics(self._section.name)

    def comparison(self) -> Comparison | None:
        """Return this run's earliest result against its latest; None with fewer than two."""
        if not self._results:
            return None
        after = self._results[max(self._results)]
        earlier = {s: r for s, r in (self._read_all() | self._results).items() if s < after.step}
        if not earlier or earlier[min(earlier)].ids != after.ids:
            return None
        return Comparison(self._section.name, earlier[min(earlier)], after)

    def _run(self, step: int, version: PolicyVersion) -> EvaluationResult:
        greedy = self._generate(self._held_out, self._sampling(1, 0.0), version)
        n = self._section.num_samples
        sampled = self._generate(
            self._held_out, self._sampling(n, self._section.temperature), version
        )
        responses = [
            pair
            for group in (*greedy, *sampled)
            for pair in zip(group.rollouts, group.rewards, strict=True)
        ]
        return EvaluationResult(
            step=step,
            ids=tuple(group.prompt.id for group in greedy),
            greedy_correct=tuple(group.rewards[0].is_correct for group in greedy),
            num_correct=tuple(sum(r.is_correct for r in group.rewards) for group in sampled),
            num_samples=n,
            truncated=_mean([rollout.is_truncated for rollout, _ in responses]),
            length_mean=_mean([len(rollout.token_ids) for rollout, _ in responses]),
            unscored=_mean([reward.status != "scored" for _, reward in responses]),
        )

    def _sampling(self, num_samples: int, temperature: float) -> SamplingSettings:
        return SamplingSettings(num_samples, temperature, 1.0, self._max_tokens, EVALUATION_SEED)

    def _write(self, result: EvaluationResult) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"step-{result.step:06d}.json"
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(asdict(result)), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise RunError(
                f"cannot write {self._folder}: {error.strerror}; free space there"
            ) from None

    def _read_all(self) -> dict[int, EvaluationResult]:
        """Return what an earlier part of this run kept."""
        results: dict[int, EvaluationResult] = {}
        for path in sorted(self._folder.glob("step-*.json")) if self._folder else ():
            values = json.loads(path.read_text(encoding="utf-8"))
            for key in ("ids", "greedy_correct", "num_correct"):
                values[key] = tuple(values[key])
            result = EvaluationResult(**values)
            results[result.step] = result
        return results


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
