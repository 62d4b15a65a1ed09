"""The command: what it would take, what it goes on with, what it writes, how runs end it."""

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.commands import study as command
from coop_rl.commands import study_runs
from coop_rl.commands.study_runs import Batch
from coop_rl.errors import ConfigError, DataError, RunDirectoryError, RunError, UserError
from coop_rl.study.planned import PlannedRun, Study, read_study
from coop_rl.study.runs import Progress, choose, state_of
from tests.report.runs import DEMO
from tests.study.stored import finish, write_grid

RIGHT = {0: [0, 0, 1, 0], 20: [2, 1, 2, 0]}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(write_grid(tmp_path), tmp_path / "runs")


def called(study: Study, *options: str) -> str:
    runs = [] if "--from" in options else ["--study-dir", str(study.folder)]
    shown = CliRunner().invoke(app, ["study", str(study.path), *runs, *options])
    if shown.exception:
        raise shown.exception
    return shown.output


def test_the_outlook_counts_what_is_done(study: Study) -> None:
    first, second, third, *_ = study.runs({})
    finish(first, RIGHT)
    finish(second, RIGHT, status="failed")
    finish(third, RIGHT, status="running")
    shown = called(study, "--dry-run")
    assert "2 arms x 3 seeds: 6 runs" in shown
    assert "1 done, 1 half-way, 1 failed, 5 to run" in shown
    assert "about 0.2 hours, by the median of the runs that are done" in shown  # 5 of 3 minutes


def test_without_a_finished_run_the_plan_says_how_long(study: Study) -> None:
    assert "hours by the assumptions of coop-rl plan" in called(study, "--dry-run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learner.lr": 1e-3}, "learner.lr 0.0002, got 0.001"),
        ({"run.num_steps": 21}, "run.num_steps 20, got 21"),
    ],
)
def test_a_run_of_another_config_is_refused_by_name(
    study: Study, tmp_path: Path, change: dict[str, float], named: str
) -> None:
    run = study.runs({})[3]
    finish(run, RIGHT)
    other = read_study(
        write_grid(
            tmp_path / "other", set={"run.num_steps": 20, "evaluation.num_samples": 2} | change
        ),
        study.folder,
    )
    for option in ("--dry-run", "--table-only"):
        with pytest.raises(RunDirectoryError) as refused:
            called(other, option)
        assert f"{run.folder} holds another run than the grid declares, with {named}" in str(
            refused.value
        )


def test_a_field_that_came_later_is_at_its_default(study: Study) -> None:
    run = study.runs({})[0]
    finish(run, RIGHT)
    path = run.folder / "config.json"
    values = json.loads(path.read_text())
    del values["recovery"], values["learner"]["attention"]
    path.write_text(json.dumps(values))
    assert state_of(run) == "done"


def test_tables_are_written_and_made_again_from_the_raw_figures(
    study: Study, tmp_path: Path
) -> None:
    for i, run in enumerate(study.runs({})):
        finish(run, {0: RIGHT[0], 20: [2, i % 3, 2, i % 2]}, reward=0.4 + 0.013 * i)
    shown = called(study, "--table-only", "--export", str(tmp_path / "export"))
    for expected in ("Arms", "Contrasts: avg@2", "bridge − rl", "How well the logged G"):
        assert expected in shown
    assert "The study" in (study.folder / "report.html").read_text()
    written = (study.folder / "tables.md").read_text()
    assert (tmp_path / "export/tables.md").read_text() == written
    found = json.loads((study.folder / "tables.json").read_text())["findings"]
    again = json.loads(called(study, "--from", str(tmp_path / "export"), "--json"))
    assert again == found
    index = json.loads((tmp_path / "export/study.json").read_text())
    about = json.dumps([index["configs"], index["runs"]])
    assert "configs/local/demo/prompts.jsonl" in about
    assert str(Path.cwd()) not in about
    assert str(tmp_path) not in about


def test_a_study_goes_on_from_its_export_where_its_folder_is_gone(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = study.runs({})
    for i, run in enumerate(runs):
        finish(run, {0: RIGHT[0], 20: [2, i % 3, 2, i % 2]}, reward=0.4 + 0.013 * i)
    called(study, "--table-only")
    whole = (study.folder / "tables.md").read_text()
    for run in runs[3:]:
        run.folder.rename(tmp_path / run.name.replace("/", "-"))
    called(study, "--table-only", "--export", str(tmp_path / "export"))
    shutil.rmtree(study.folder)
    export = ("--export", str(tmp_path / "export"))
    index = json.loads((tmp_path / "export/study.json").read_text())
    del index["grid"]["known_seeds"]  # as by a version that did not have it
    (tmp_path / "export/study.json").write_text(json.dumps(index))
    assert "3 done, 3 to run" in called(study, "--dry-run", *export)
    assert "0 done, 6 to run" in called(study, "--dry-run")
    started: list[str] = []

    def start(run: PlannedRun) -> "subprocess.Popen[bytes]":
        started.append(run.name)
        (tmp_path / run.name.replace("/", "-")).rename(run.folder)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(study_runs, "start", start)
    monkeypatch.setattr(study_runs, "POLL_S", 0.01)
    monkeypatch.setattr(command, "_require_arms", lambda _: None)
    for run in runs[3:]:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
    called(study, *export)
    assert started == [run.name for run in runs[3:]]
    assert (tmp_path / "export/tables.md").read_text() == whole
    assert "6 done, 0 to run" in called(study, "--dry-run", *export)


def test_an_export_of_another_config_is_refused_by_name(tmp_path: Path) -> None:
    base, export = tmp_path / "base.yaml", str(tmp_path / "export")
    path = write_grid(tmp_path, base=base.name)
    demo = os.path.relpath(DEMO, tmp_path)
    base.write_text(f"extends: {demo}")
    study = read_study(path, tmp_path / "runs")
    finish(study.runs({})[0], RIGHT)
    called(study, "--table-only", "--export", export)
    shutil.rmtree(study.folder)
    base.write_text(f"{{extends: {demo}, learner: {{lr: 0.001}}}}")
    with pytest.raises(ConfigError) as refused:
        called(study, "--dry-run", "--export", export)
    assert "holds another run bridge/0 than the grid declares, with learner.lr 0.0002" in str(
        refused.value
    )


def test_an_archive_of_another_declaration_is_refused(study: Study, tmp_path: Path) -> None:
    finish(study.runs({})[0], RIGHT)
    export = str(tmp_path / "export")
    called(study, "--table-only", "--export", export)
    other = read_study(write_grid(tmp_path / "other", seeds=[0]), study.folder)
    with pytest.raises(ConfigError, match="seeds is not what the grid says"):
        called(other, "--from", export)
    (tmp_path / "export/steps.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match="is no whole parquet file"):
        called(study, "--from", export)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dry-run", "--table-only"), "each start nothing: give one of them"),
        (("--from", "x", "--export", "y"), "--export writes what run folders hold; give it"),
        (("--from", "x", "--study-dir", "y"), "--study-dir is where run folders lie; give it"),
        (("--export", "README.md", "--dry-run"), "README.md is a file; give --export a folder"),
        (("--from", "gone"), "gone is no study (study.json is missing or broken)"),
        (("--table-only",), "has finished"),
    ],
)
def test_options_that_cannot_be_met(study: Study, options: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError) as refused:
        called(study, *options)
    assert expected in str(refused.value)


def test_an_arm_goes_on_with_the_chosen_trial(tmp_path: Path) -> None:
    trials = {"rl": [{"learner.lr": 1e-4}, {"learner.lr": 4e-4}]}
    study = read_study(write_grid(tmp_path, trials=trials, seeds=[0]), tmp_path / "runs")
    one, two = study.trial_runs()
    finish(one, RIGHT, reward=0.2)
    assert choose(study, Progress().finished(study.trial_runs())) == {}
    assert "1 done, 3 to run" in called(study, "--dry-run")
    finish(two, RIGHT, reward=0.3)
    assert choose(study, Progress().finished(study.trial_runs())) == {"rl": 2}
    assert "2 done, 2 to run" in called(study, "--dry-run")


def test_an_arm_that_took_the_config_of_another_has_its_runs(tmp_path: Path) -> None:
    arms = {"tuned": {}, "slow": {"learner.lr": 1e-4}, "fast": {"learner.lr": 4e-4}}
    trials = {"tuned": [{"learner.lr": 1e-4}, {"learner.lr": 4e-4}]}
    contrasts = [{"arm": "tuned", "reference": "slow"}]
    path = write_grid(tmp_path, arms=arms, trials=trials, contrasts=contrasts, seeds=[0, 1])
    study = read_study(path, tmp_path / "runs")
    for run, reward in zip(study.trial_runs(), (0.2, 0.3), strict=True):
        finish(run, RIGHT, reward=reward)
    runs = study.runs(choose(study, Progress().finished(study.trial_runs())))
    assert "2 done, 4 to run" in called(study, "--dry-run")
    missing = Progress().missing(runs)
    assert [run.name for run in missing] == ["tuned/0", "slow/0", "tuned/1", "slow/1"]
    assert [run.folder.relative_to(study.folder) for run in missing[:2]] == [
        Path("fast/0"),
        Path("slow/0"),
    ]
    for run in missing:
        finish(run, RIGHT)
    assert [run.name for run in Progress().finished(runs)] == [run.name for run in runs]
    called(study, "--table-only", "--export", str(tmp_path / "export"))
    shutil.rmtree(study.folder)
    assert "6 done, 0 to run" in called(study, "--dry-run", "--export", str(tmp_path / "export"))


def script(monkeypatch: pytest.MonkeyPatch, codes: dict[str, int]) -> list[str]:
    """Let a run be a shell that ends with the run's code; returns the names as they start."""
    started: list[str] = []

    def start(run: PlannedRun) -> "subprocess.Popen[bytes]":
        started.append(run.name)
        code = codes.get(run.name, 0)
        if code == 0:
            finish(run, RIGHT)
        return subprocess.Popen(["sh", "-c", f"exit {code}"])

    monkeypatch.setattr(study_runs, "start", start)
    monkeypatch.setattr(study_runs, "POLL_S", 0.01)
    return started


@pytest.mark.parametrize("num_parallel", [1, 4])
def test_a_run_that_fails_is_told_and_the_others_go_on(
    study: Study, monkeypatch: pytest.MonkeyPatch, num_parallel: int
) -> None:
    started = script(monkeypatch, {"bridge/1": 1})
    told: list[str] = []
    batch = Batch(num_parallel, None, told.append)
    assert batch.train(study.runs({}))
    assert started == [run.name for run in study.runs({})]
    assert batch.failed == ["bridge/1"]
    assert len(told) == 6
    assert any("bridge/1: failed after" in line for line in told)
    assert any("pass@1 0.000 to 0.500" in line for line in told)


@pytest.mark.parametrize(
    ("codes", "error", "expected", "num_started"),
    [
        ({"bridge/1": 2}, UserError, "bridge/1 was refused", 3),
        ({"rl/0": 1, "bridge/1": 1, "rl/1": 1}, RunError, "3 runs in a row failed", 4),
    ],
)
def test_a_refused_run_and_failures_in_a_row_end_the_study(
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    codes: dict[str, int],
    error: type[Exception],
    expected: str,
    num_started: int,
) -> None:
    started = script(monkeypatch, codes)
    with pytest.raises(error, match=expected):
        Batch(1, None, lambda _: None).train(study.runs({}))
    assert len(started) == num_started


def test_the_budget_ends_with_the_run_that_goes_beyond(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = script(monkeypatch, {})
    assert not Batch(1, 0.005, lambda _: None).train(study.runs({}))
    assert len(started) == 1
    assert not Batch(1, 0.0, lambda _: None).train(study.runs({}))
    assert len(started) == 1


def test_ctrl_c_stops_the_runs_under_way(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    processes: list[subprocess.Popen[bytes]] = []

    def start(_: PlannedRun) -> "subprocess.Popen[bytes]":
        # Started in the background, pytest ignores the signal, and so would the process.
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        processes.append(subprocess.Popen(["sleep", "60"], preexec_fn=heeds))
        return processes[-1]

    monkeypatch.setattr(study_runs, "start", start)
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Batch(2, None, lambda _: None).train(study.runs({}))
    assert [process.returncode for process in processes] == [-2, -2]
