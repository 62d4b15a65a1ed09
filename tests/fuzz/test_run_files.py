"""Files of a run's folder, torn, reordered or foreign: what reads them ends in a line, or reads."""

import json
import random
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from coop_rl.api import load_run
from coop_rl.config import load_config
from coop_rl.diagnosis.live import run_findings
from coop_rl.diagnosis.report import report
from coop_rl.observability import run_directory
from coop_rl.observability.losses import (
    Loss,
    close_status,
    losses,
    read_status,
    recovered,
    steps_recorded,
)
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.observability.sinks import JsonlSink, read_jsonl, read_rows
from coop_rl.report.arms import arms_of
from coop_rl.report.comparison import compare_arms
from coop_rl.report.content import content_of
from coop_rl.report.page import as_json
from coop_rl.report.stored_run import read_run, read_runs
from coop_rl.report.summary import write_summary
from coop_rl.report.terminal import show_comparison
from tests.fuzz.mutation import changed_bytes, changed_json, changed_rows, model_text
from tests.fuzz.survey import require_harmless, survey
from tests.report.runs import write_run

BEAT = {
    "phase": "step", "seconds": 4.0, "usual_s": 2.5, "num_open": 1, "version": "theta3.w3",
    "children": [{"name": "EngineCore", "pid": 9, "state": "stopped"}], "silent_s": 1.0, "pid": 1,
    "node_id": "0123456789",
}  # fmt: skip
WAITS = {
    "at": datetime(2026, 12, 1, tzinfo=UTC).isoformat(),
    "driver_waits_s": 28.0,
    "driver_waits_for": [{"actor": "rollout-0", "phase": "generate", "calls": 8}],
    "actors": {"rollout-0": BEAT},
}
LOSS = {
    "time": "2026-12-01", "step": 3, "who": ["driver"], "cause": "died", "error": "killed: x",
    "resumed_from": 2,
}  # fmt: skip


REPORTED = 0.1
"""Share of cases that are also shown in every way, which takes longer."""


def make_runs(folder: Path) -> tuple[Path, Path]:
    right = {0: [True, False, False, True], 6: [True, True, False, True]}
    first, other = (
        write_run(folder / name, seed=seed, num_steps=6, right=right)
        for seed, name in enumerate(("rl", "bridge"))
    )
    status = {"status": "running", "pid": 1, "host": "elsewhere", "error": None, "losses": [LOSS]}
    (first / "run.json").write_text(json.dumps(status))
    (first / "waiting.json").write_text(json.dumps(WAITS))
    return first, other


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_rows(tmp_path: Path, name: str) -> None:
    """Torn, NUL, reordered, twice; then a resume goes back to step 4 and writes on."""
    run, other = make_runs(tmp_path)
    whole = (run / name).read_bytes()

    def case(rng: random.Random) -> None:
        changed = changed_rows(rng, whole)
        (run / name).write_bytes(changed)
        steps_recorded(run)
        read_run(run)
        if rng.random() < REPORTED:
            report_all(run, other)
        _, unreadable = read_rows(run / name)
        notes = RunDirectory(run, load_run(run).config).unreadable_rows()
        assert len(notes) == bool(unreadable)
        sink = JsonlSink(run / name)
        try:
            sink.rewind(lambda row: bool(row["step"] < 4))
            sink.write({"step": 4, "text": "\u2028\x1b\x00"})
        finally:
            sink.close()
        rows, unreadable = read_rows(run / name)
        assert (rows[-1]["step"], unreadable) == (4, [])
        assert all(row["step"] < 4 for row in rows[:-1])

    survey(name, case)


def report_all(run: Path, other: Path) -> None:
    """Everything that reads a run's folder."""
    content = content_of([read_run(run)])
    assert "<" not in as_json(content)
    write_summary(read_run(run))
    both = arms_of(read_runs([run, other]))
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        show_comparison(both, compare_arms(both))
    require_harmless(out.getvalue())
    result = load_run(run)
    assert len(result.metrics) + len(result.evaluations) + len(result.samples) >= 0


def test_status_waiting_and_results(tmp_path: Path) -> None:
    run, other = make_runs(tmp_path)
    names = ("run.json", "waiting.json", "config.json", "evaluations/step-000006/sums.json")
    whole = {name: (run / name).read_bytes() for name in names}

    def case(rng: random.Random) -> None:
        name = rng.choice(names)
        change = changed_bytes if name == "config.json" else changed_json
        (run / name).write_bytes(change(rng, whole[name]))
        try:
            assert read_run(run).results.keys()
            if rng.random() < REPORTED:
                report_all(run, other)
            found = Console(file=(out := StringIO()), force_terminal=True, width=90)
            try:
                report(run_findings(run), found, as_json=False)
            finally:
                require_harmless(out.getvalue())
            read_status(run)
            recovered(read_status(run))
            close_status(run, "failed", "x", [Loss("now", 1, ("driver",), "died", "killed")])
            assert losses(read_status(run))[-1].error == "killed"
        finally:
            (run / name).write_bytes(whole[name])
            (run / "run.json").write_bytes(whole["run.json"])

    survey("run.json", case)


def test_a_run_goes_on_in_a_folder_with_a_damaged_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "git_commit", lambda: None)  # asks git each time
    config = load_config(Path("configs/local/demo.yaml"))
    with RunDirectory.open(config, tmp_path / "run").running():
        pass
    whole = {n: (tmp_path / "run" / n).read_bytes() for n in ("run.json", "config.json")}

    def case(rng: random.Random) -> None:
        name = rng.choice(sorted(whole))
        (tmp_path / "run" / name).write_bytes(changed_json(rng, whole[name]))
        try:
            with RunDirectory.open(config, tmp_path / "run").running() as status:
                status.goes_on_from(3)
        finally:
            (tmp_path / "run" / name).write_bytes(whole[name])

    survey("folder", case)


def test_rows_of_samples_hold_whatever_models_write(tmp_path: Path) -> None:
    def case(rng: random.Random) -> None:
        texts = [model_text(rng) for _ in range(3)]
        sink = JsonlSink(tmp_path / "samples.jsonl")
        for step, text in enumerate(texts):
            sink.write({"step": step, "response": text})
        sink.close()
        found = [row["response"] for row in read_jsonl(tmp_path / "samples.jsonl")]
        assert found == [t.encode("utf-8", "replace").decode() for t in texts]
        (tmp_path / "samples.jsonl").unlink()

    survey("sample rows", case)
