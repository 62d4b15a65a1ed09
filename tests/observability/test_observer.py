"""A run's rows: one a step, also after a resume; evaluations apart; clock without start-up."""

import io
import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from coop_rl.config import load_config
from coop_rl.metric_names import describe
from coop_rl.observability.console import RunConsole
from coop_rl.observability.losses import Loss
from coop_rl.observability.observer import RunObserver
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.observability.sinks import read_jsonl
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion
from tests.observability.records import bridge

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"
EVALUATED = {"eval/sums/pass@1": 0.5, "eval/sums/pass@1_low": 0.4, "eval/sums/pass@1_high": 0.6}


class Session:
    """An observer on a run directory, with its stages and what it printed."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        given = ["run.num_steps=6", "method.mix=0.5", "observability.samples_per_step=2"]
        self.config = load_config(DEMO, [*given, *overrides])
        self.directory = RunDirectory.open(self.config, folder)
        self.stages = Stages()
        self.printed = io.StringIO()
        console = RunConsole(Console(file=self.printed, width=300))
        self.observer = RunObserver(self.config, self.directory, console, self.stages)

    def run(self, steps: range, evaluated: tuple[int, ...]) -> None:
        def evaluate(step: int) -> None:
            if step in evaluated:
                self.stages.count("time/evaluate_s", 0.25)
            self.observer.record_evaluation(step, EVALUATED if step in evaluated else {})

        self.stages.count("time/publish_s", 99.0)  # start-up's
        evaluate(steps.start)
        for step in steps:
            self.stages.count("time/generate_s", 0.5)
            self.observer.record(bridge(step))
            self.stages.count("time/save_s", 0.125)
            evaluate(step + 1)
        self.observer.close()


def rows(folder: Path) -> list[tuple[int, str]]:
    return [
        (row["step"], "eval" if "eval/sums/pass@1" in row else "step")
        for row in read_jsonl(folder / "metrics.jsonl")
    ]


def test_one_row_a_step_and_one_per_evaluation(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run(range(6), evaluated=(0, 6))
    assert rows(tmp_path) == [(0, "eval"), *((s, "step") for s in range(6)), (6, "eval")]
    written = read_jsonl(tmp_path / "metrics.jsonl")
    base, first, second = written[:3]
    assert base["time/evaluate_s"] == 0.25
    assert first["time/generate_s"] == 0.5
    assert "time/publish_s" not in first
    assert "time/save_s" not in first
    assert second["time/save_s"] == 0.125
    assert first["guidance/mix"] == 0.5
    assert (first["lr/theta"], first["lr/w"]) == (2e-4 / 5, 2e-3)  # theta's warms up over 5 steps
    assert first["grad/cosine"] is None
    assert {name for row in written for name in row if describe(name) is None} == set()
    assert list((tmp_path / "events").iterdir())


def test_samples_are_written_and_one_is_shown(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run(range(6), evaluated=())
    samples = read_jsonl(tmp_path / "samples.jsonl")
    assert [(s["step"], s["prompt_id"]) for s in samples[:4]] == [
        (0, "a"),
        (0, "b"),
        (1, "a"),
        (1, "b"),
    ]
    assert samples[0] | {"version": ""} == {
        "step": 0,
        "version": "",
        "version_spans": [],
        "prompt_id": "a",
        "prompt": "2+2=?\n",
        "given": "",
        "response": "#4",
        "answer": "4",
        "reward": 1.0,
        "is_correct": True,
        "status": "scored",
        "is_truncated": True,
        "num_tokens": 1,
        "advantage": None,
        "log_probs": [0.0],
        "token_lengths": [],
    }
    lines = session.printed.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("step")]) == 6
    assert lines[-1] == "sample  2+2=?⏎  ->  #4  (right)"


@pytest.mark.parametrize(("resumed_at", "evaluated"), [(4, ()), (4, (4,)), (0, (0,)), (3, (6,))])
def test_a_resumed_run_repeats_steps_in_place(
    tmp_path: Path, resumed_at: int, evaluated: tuple[int, ...]
) -> None:
    Session(tmp_path).run(range(5), evaluated=(0, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    Session(tmp_path).run(range(resumed_at, 6), evaluated=evaluated)
    found = rows(tmp_path)
    assert [s for s, kind in found if kind == "step"] == list(range(6))
    expected = sorted({s for s in (0, 4) if s <= resumed_at} | set(evaluated))
    assert [s for s, kind in found if kind == "eval"] == expected
    samples = read_jsonl(tmp_path / "samples.jsonl")
    assert [s["step"] for s in samples] == [s for s in range(6) for _ in range(2)]


def test_rows_of_steps_trained_again_are_kept_aside_and_losses_counted(tmp_path: Path) -> None:
    Session(tmp_path).run(range(5), evaluated=(0, 4))
    assert not (tmp_path / "metrics.repeated.jsonl").exists()
    loss = Loss("now", 5, ("driver",), "died", "it died", resumed_from=3)
    status = {"num_resumes": 1, "losses": [asdict(loss)]}
    (tmp_path / "run.json").write_text(json.dumps(status))
    Session(tmp_path).run(range(3, 6), evaluated=())
    aside = read_jsonl(tmp_path / "metrics.repeated.jsonl")
    assert [(row["step"], row["attempt"], "grad/norm" in row) for row in aside] == [
        (3, 1, True),
        (4, 1, False),
        (4, 1, True),
    ]
    counted = [
        row.get("recovered/repeated_steps") for row in read_jsonl(tmp_path / "metrics.jsonl")
    ]
    assert counted == [None] * 4 + [2] * 3
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["recovered/restarts"] == 1


@pytest.mark.parametrize(("resumed_at", "is_kept"), [(2, False), (3, True), (0, False)])
def test_a_row_beside_training_has_its_own_step_and_is_not_there_twice(
    tmp_path: Path, resumed_at: int, *, is_kept: bool
) -> None:
    beside = ("evaluation.every=2", "evaluation.num_rollout_actors=1")
    session = Session(tmp_path, *beside)
    for step in range(4):
        session.observer.record_evaluation(step, {})
        session.observer.record(bridge(step))
    session.observer.record_background(2, PolicyVersion(2, 1), EVALUATED)
    session.observer.close()
    assert rows(tmp_path)[-2:] == [(3, "step"), (2, "eval")]
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["version"] == 2
    assert "evaluated after 2 steps: sums/pass@1 0.500" in session.printed.getvalue()
    resumed = Session(tmp_path, *beside)
    resumed.observer.record_evaluation(resumed_at, {})
    resumed.observer.close()
    assert ((2, "eval") in rows(tmp_path)) is is_kept


def test_what_training_waits_for_evaluations_is_in_the_steps_row(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.observer.record_evaluation(0, {})
    session.stages.count("time/evaluate_s", 0.5)
    session.observer.record_evaluation(1, {})
    session.observer.record(bridge(1))
    session.observer.close()
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["time/evaluate_s"] == 0.5


def test_actors_replaced_before_the_first_step_count_in_its_row(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.stages.count("recovered/rollouts", 1)
    session.run(range(2), evaluated=(0,))
    found = [row.get("recovered/rollouts") for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert found == [None, 1, None]


def test_step_time_leaves_evaluations_out(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.observer.record_evaluation(0, {})
    session.observer.record(bridge(0))
    with session.stages.stage("evaluate"):
        time.sleep(0.3)
    session.observer.record_evaluation(1, EVALUATED)
    time.sleep(0.1)
    session.observer.record(bridge(1))
    session.observer.close()
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0.1 <= last["time/step_s"] < 0.3
