"""The loop's role `Evaluation` beside training, on rollout actors of its own.

    maybe_run --> wait for the evaluation before --> send the step's weights --> ask for groups
    groups, in whatever wait of the driver --> ask for more ... --> a row with the step and version

The rollout actors keep the weights they were sent until the next evaluation, so what is measured is
one version, however far training has gone on. At most one evaluation is under way; the run waits
for it at its end and at a stop.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from coop_rl.config import RunConfig
from coop_rl.driver.evaluation import Evaluator
from coop_rl.driver.generation import AskedGeneration
from coop_rl.evaluation.measure import Asking, Request
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, ScoredGroup

OnResult = Callable[[int, PolicyVersion, Mapping[str, float]], None]
"""Gets the steps trained before, the version that was measured, and its metrics."""


class EvaluationGeneration(AskedGeneration, Protocol):
    """What `TeamGeneration` does for an evaluation."""

    def serving(self) -> AbstractContextManager[None]:
        """Let groups advance in every wait of the driver."""
        ...

    def change_weights(
        self, version: PolicyVersion, send: Callable[[], None], *, is_read: bool
    ) -> None:
        """Serve `version` from now on."""
        ...

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait at a step boundary, where a stop breaks it off."""
        ...


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """The evaluation that has not ended."""

    step: int
    version: PolicyVersion
    asking: Asking[Mapping[str, float]]


class BackgroundEvaluator:
    """Implements `algorithm.roles.Evaluation`; its figures go to `on_result`, not to the loop."""

    def __init__(
        self,
        config: RunConfig,
        evaluator: Evaluator,
        generation: EvaluationGeneration,
        send: Callable[[PolicyVersion], None],
        on_result: OnResult,
        report: Callable[[str], None],
        stages: Stages,
    ) -> None:
        """Evaluate what `evaluator` says, when it says so.

        Args:
            config: The run.
            evaluator: Asks for groups, and keeps results.
            generation: Samples on the evaluation's rollout actors.
            send: Sends them the learners' weights.
            on_result: Called once an evaluation, in a wait of the driver.
            report: Gets a line about what is lost or waited for.
            stages: Timers; `evaluate` is what training waits for.
        """
        self._num_steps = config.run.num_steps
        self._evaluator = evaluator
        self._generation = generation
        self._send = send
        self._on_result = on_result
        self._report = report
        self._stages = stages
        self._under_way: _UnderWay | None = None
        self._has_begun = False

    def serving(self) -> AbstractContextManager[None]:
        """Let an evaluation advance in every wait of the driver."""
        return self._generation.serving()

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Begin an evaluation when due; wait for the one before, and at the run's end for this."""
        if not self._has_begun:
            self._has_begun = True
            for lost in self._evaluator.unfinished(before=step):
                self._report(
                    f"the evaluation after {lost} steps is lost: the run ended while it was under "
                    "way, and its weights are gone"
                )
        if not self._evaluator.is_due(step):
            return {}
        with self._stages.stage("evaluate"):
            self._generation.wait_until(self._is_idle)
            self._generation.change_weights(version, partial(self._send, version), is_read=True)
            self._under_way = _UnderWay(step, version, self._evaluator.ask(step))
            self._ask(next(self._under_way.asking))
            if step == self._num_steps:
                self._generation.wait_until(self._is_idle)
        return {}

    def finish(self) -> None:
        """Wait for the evaluation under way, if any, when the run is stopped.

        Raises:
            Interrupted: The user asked a second time.
        """
        if self._under_way:
            self._report(
                f"waiting for the evaluation after {self._under_way.step} steps; "
                "interrupt again to give it up"
            )
            self._generation.wait_through(self._is_idle)

    def _is_idle(self) -> bool:
        return self._under_way is None

    def _ask(self, request: Request) -> None:
        assert self._under_way is not None
        self._generation.begin(*request, self._under_way.version, self._answer)

    def _answer(self, groups: Sequence[ScoredGroup]) -> None:
        """Go on with the groups that were asked for."""
        now = self._under_way
        assert now is not None
        try:
            request = now.asking.send(groups)
        except StopIteration as done:
            self._under_way = None
            self._on_result(now.step, now.version, done.value)
        else:
            self._ask(request)
