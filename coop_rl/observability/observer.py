"""The loop's role `Observer`: a step's record to metrics, samples, events and terminal."""

import time
from collections.abc import Callable, Mapping, Sequence

from coop_rl.algorithm.roles import StepRecord
from coop_rl.config import RunConfig
from coop_rl.metric_names import EVALUATION, NUM_ROLLOUTS, RECOVERED, STEP_SECONDS
from coop_rl.observability.console import RunConsole
from coop_rl.observability.forgetting import Forgetting
from coop_rl.observability.ledger import Ledger
from coop_rl.observability.losses import read_status, recovered
from coop_rl.observability.metrics import Metrics, finite, learning_rates, step_metrics
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.observability.sample_rows import SampleRows
from coop_rl.observability.sinks import JsonlSink, JsonObject, TensorBoardSink, read_jsonl
from coop_rl.observability.throughput import Throughput
from coop_rl.observability.trackers import Trackers
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion

EVALUATION_TIME = "time/evaluate"


class RunObserver:
    """Writes a row per step and per evaluation, each on disk before the loop goes on.

    The loop reports the evaluation before its first step first, due or not: that call starts the
    clock and tells where a resumed run goes on, so rows of steps about to be repeated are dropped.
    """

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        console: RunConsole,
        stages: Stages,
        show: Callable[[Metrics], None] = lambda _: None,
        trackers: Trackers | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        """Open the run's files; `show` gets every row as well, and started trackers do.

        `decode`, from tokens to text without special ones, tells samples' tokens apart.

        Raises:
            RunError: They cannot be written.
        """
        self._config = config
        self._directory = directory
        self._console = console
        self._stages = stages
        self._show = show
        self._trackers = trackers
        self._ledger = Ledger(config)
        self._throughput = Throughput(config)
        self._forgetting = Forgetting()
        self._metrics = JsonlSink(directory.metrics)
        self._samples = JsonlSink(directory.samples)
        self._rows = SampleRows(decode, mask_truncated=config.rollout.mask_truncated)
        self._events: TensorBoardSink | None = None
        self._has_begun = False
        self._recovered: Metrics = {}
        self._last_row = time.monotonic()

    def record(self, record: StepRecord) -> None:
        """Write one step's row, its samples, and its line."""
        self._begin(record.step, is_evaluated=False)
        now = time.monotonic()
        timings = self._stages.take() | {STEP_SECONDS: now - self._last_row}
        self._last_row = now
        spent = self._ledger.add(record, timings[STEP_SECONDS], timings.get(NUM_ROLLOUTS))
        metrics = step_metrics(record, timings) | learning_rates(self._config, record) | spent
        metrics |= self._throughput.of_step(record, timings)
        metrics |= self._forgetting.add(metrics) | self._recovered
        self._write(record.step, metrics)
        samples = list(self._rows.of(record, self._config.observability.samples_per_step))
        for row in samples:
            self._samples.write(row)
        if self._trackers:
            self._trackers.samples(record.step, samples)
        self._console.step(metrics)
        groups = record.sampled.groups
        if groups and record.step + 1 == self._config.run.num_steps:
            first = groups[0]
            self._console.sample(first.prompt.text, first.rollouts[0].text, first.rewards[0])

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures measured after `step` steps; empty ones only keep the clock right."""
        # A background evaluation that is due comes later, once more.
        is_due = self._config.evaluation.is_due(step, self._config.run.num_steps)
        self._begin(step, is_evaluated=bool(metrics) or is_due)
        if metrics:
            timings = self._stages.take(EVALUATION_TIME)
            self._last_row += sum(timings.values())
            row = {"step": step, **{k: finite(v) for k, v in {**metrics, **timings}.items()}}
            self._write(step, row | self._forgetting.add(row))
            self._console.evaluation(step, metrics)

    def record_background(
        self, step: int, version: PolicyVersion, metrics: Mapping[str, float]
    ) -> None:
        """Write figures of an evaluation that training did not wait for, whatever step it is at."""
        values = {name: finite(value) for name, value in metrics.items()}
        self._write(step, {"step": step, "version": version.theta, **values})
        self._console.evaluation(step, metrics)

    @property
    def forgetting(self) -> Forgetting:
        """What the run lost so far."""
        return self._forgetting

    def close(self) -> None:
        """Close files and progress bar."""
        self._console.close()
        for sink in (self._metrics, self._samples, self._events, self._trackers):
            if sink:
                sink.close()

    def _begin(self, step: int, is_evaluated: bool) -> None:
        """On the first call, go back to `step`."""
        if self._has_begun:
            return
        self._has_begun = True

        def is_kept(row: JsonObject) -> bool:
            is_evaluation = any(name.startswith(EVALUATION) for name in row)
            return bool(
                row["step"] < step or (row["step"] == step and is_evaluation and not is_evaluated)
            )

        status = read_status(self._directory.path)
        self._recovered = {**recovered(status)}
        attempt = {"attempt": status.get("num_resumes", 0)}

        def keep_aside(rows: list[JsonObject]) -> None:
            repeated = JsonlSink(self._directory.repeated)
            for row in rows:
                repeated.write(row | attempt)
            repeated.close()

        self._metrics.rewind(is_kept, keep_aside)
        for row in read_jsonl(self._directory.metrics):
            self._forgetting.add(row)
            if self._trackers:
                self._trackers.write(row["step"], row)
            if "grad/norm" in row:
                self._ledger.go_on(row)
        self._samples.rewind(lambda row: bool(row["step"] < step))
        if self._trackers:
            self._trackers.samples(step - 1, read_jsonl(self._directory.samples))
        if self._config.observability.tensorboard:
            self._events = TensorBoardSink(self._directory.events, step)
        self._console.begin(step, self._config.run.num_steps)
        # What was timed so far is start-up (and an evaluation, which its own row reports).
        evaluation = self._stages.take(EVALUATION_TIME)
        replaced = self._stages.take(RECOVERED)
        self._stages.take()
        for name, value in (evaluation | replaced).items():
            self._stages.count(name, value)
        self._last_row = time.monotonic() - sum(evaluation.values())

    def _write(self, step: int, metrics: Metrics) -> None:
        self._metrics.write(metrics)
        if self._events:
            self._events.write(step, metrics)
        if self._trackers:
            self._trackers.write(step, metrics)
        self._show(metrics)
