"""Evaluation beside training: one version each, stamped; waited for at the end and at a stop."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from coop_rl.config import RunConfig, derive_sizes, load_config
from coop_rl.config.sizes import role_counts
from coop_rl.driver.background_evaluation import BackgroundEvaluator
from coop_rl.driver.evaluation import Evaluator
from coop_rl.errors import ConfigError, Interrupted, RunError
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings, ScoredGroup
from tests.driver.test_evaluation import DEMO, SETS, Policy, config

EVERY_2 = ("evaluation.every=2", "evaluation.num_rollout_actors=1")


class Engines:
    """The evaluation's rollout actors: they answer a request when `advance` is called."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._asked: deque[Callable[[], None]] = deque()
        self.served: list[int] = []
        self.is_insisted = False

    def serving(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingSettings,
        version: PolicyVersion,
        on_all: Callable[[Sequence[ScoredGroup]], None],
    ) -> None:
        def answer() -> None:
            assert version.theta == self.served[-1], "the weights changed in an evaluation"
            on_all(self._policy.generate(prompts, sampling, version))

        self._asked.append(answer)

    def change_weights(
        self, version: PolicyVersion, send: Callable[[], None], *, is_read: bool
    ) -> None:
        assert is_read
        send()
        self.served.append(version.theta)

    def advance(self) -> None:
        if self._asked:
            self._asked.popleft()()

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self.advance()

    def wait_through(self, is_done: Callable[[], bool]) -> None:
        if self.is_insisted:
            raise Interrupted("stopped at once")
        self.wait_until(is_done)


class Scene:
    """A run's evaluations, without the run."""

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        self.policy = Policy(5)
        self.engines = Engines(self.policy)
        self.sent: list[PolicyVersion] = []
        self.rows: list[tuple[int, int, Mapping[str, float]]] = []
        self.lines: list[str] = []
        self.evaluator = Evaluator(config, SETS, self.policy.generate, Stages(), folder)
        self.role = BackgroundEvaluator(
            config,
            self.evaluator,
            self.engines,
            self.sent.append,
            lambda step, version, metrics: self.rows.append((step, version.theta, metrics)),
            self.lines.append,
            Stages(),
        )

    def at(self, step: int) -> None:
        assert self.role.maybe_run(step, PolicyVersion(step + 10, step)) == {}


def test_rows_carry_step_and_version_and_equal_a_blocking_evaluation(tmp_path: Path) -> None:
    scene = Scene(config(*EVERY_2), tmp_path / "beside")
    blocking = Evaluator(config(), SETS, Policy(5).generate, Stages(), tmp_path / "blocking")
    for step in range(7):
        scene.at(step)
        scene.engines.advance()
    assert [(step, theta) for step, theta, _ in scene.rows] == [(0, 10), (2, 12), (4, 14), (6, 16)]
    assert [version.theta for version in scene.sent] == scene.engines.served == [10, 12, 14, 16]
    expected = blocking.maybe_run(6, PolicyVersion(6, 6))
    assert scene.rows[-1][2] == expected
    name = "step-000006/sums.responses.jsonl"
    assert (tmp_path / "beside" / name).read_text() == (tmp_path / "blocking" / name).read_text()
    assert [c.before.step for c in scene.evaluator.comparisons()] == [0, 0]


def test_the_next_evaluation_and_the_end_wait_and_nothing_else_does() -> None:
    scene = Scene(config(*EVERY_2))
    scene.at(0)
    scene.at(1)
    assert scene.rows == []
    scene.at(2)
    assert [step for step, *_ in scene.rows] == [0]
    for step in range(3, 7):
        scene.at(step)
    assert [step for step, *_ in scene.rows] == [0, 2, 4, 6]


def test_a_stop_waits_for_it_unless_the_user_insists() -> None:
    scene = Scene(config(*EVERY_2))
    scene.role.finish()
    assert scene.lines == []
    scene.at(2)
    scene.engines.is_insisted = True
    with pytest.raises(Interrupted):
        scene.role.finish()
    assert scene.rows == []
    scene.engines.is_insisted = False
    scene.role.finish()
    assert [step for step, *_ in scene.rows] == [2]
    assert "evaluation after 2 steps; interrupt again to give it up" in scene.lines[-1]


def test_a_resumed_run_names_what_was_lost_and_repeats_what_it_can(tmp_path: Path) -> None:
    killed = Scene(config(*EVERY_2), tmp_path)
    killed.at(0)
    killed.engines.wait_until(lambda: bool(killed.rows))
    killed.at(2)
    killed.engines.advance()
    early, late = Scene(config(*EVERY_2), tmp_path), Scene(config(*EVERY_2), tmp_path)
    late.at(3)
    (line,) = late.lines
    assert line.startswith("the evaluation after 2 steps is lost")
    early.at(2)
    assert early.lines == []
    early.role.finish()
    assert [step for step, *_ in early.rows] == [2]


def test_what_fails_beside_training_fails_the_wait_it_comes_up_in() -> None:
    scene = Scene(config(*EVERY_2))

    def dies(*_: Any) -> list[ScoredGroup]:
        raise RunError("rollout-evaluation-0 died")

    scene.policy.generate = dies  # type: ignore[method-assign, assignment]
    scene.at(0)
    with pytest.raises(RunError, match="rollout-evaluation-0 died"):
        scene.engines.advance()


def test_its_engines_are_counted() -> None:
    beside = config("evaluation.num_rollout_actors=2", "placement.rollout={cpus: 3}")
    assert role_counts(beside)["rollout evaluation"][0] == 2
    assert "rollout evaluation" not in role_counts(config())
    assert derive_sizes(beside).total_cpus == derive_sizes(config()).total_cpus + 3 * 3 - 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["checkpoint.best=eval/sums/pass@1"],
            "checkpoint.best eval/sums/pass@1 keeps the state that was measured",
        ),
        (["placement.colocated=true", "placement.rollout={gpus: 0.4}"], "engines asleep; set eval"),
    ],
)
def test_what_needs_the_figures_at_once_is_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(DEMO, [*EVERY_2, *overrides])
    assert expected in str(refused.value)
    assert "set evaluation.num_rollout_actors 0" in str(refused.value)


def test_the_best_by_nll_is_measured_by_learners_and_goes_with_it() -> None:
    best = "checkpoint.best=eval/demonstrations/nll"
    assert load_config(DEMO, [*EVERY_2, best]).evaluation.num_rollout_actors == 1
