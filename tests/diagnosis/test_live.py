"""What `doctor --run` says of a run, by what its driver wrote."""

import json
import os
import socket
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.config import load_config
from coop_rl.diagnosis.finding import Finding
from coop_rl.diagnosis.live import run_findings
from coop_rl.diagnosis.report import report
from coop_rl.errors import ConfigError, RunDirectoryError
from coop_rl.observability.run_directory import RunDirectory
from tests.main_job.harness import DEMO

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
BEAT: dict[str, Any] = {
    "node_id": "abcdef0123",
    "pid": 7,
    "phase": "step",
    "seconds": 30.0,
    "usual_s": 2.5,
    "num_open": 1,
    "version": "theta3.w3",
    "children": [],
    "silent_s": 0.0,
}
STOPPED = [{"pid": 9, "name": "VLLM::EngineCore", "state": "stopped", "cpu_s": 1.0}]


def look(run: Path, age_s: float = 2.0, **beats: dict[str, Any]) -> dict[str, Finding]:
    """Return the findings of a run of this machine, by what they are about."""
    config = load_config(DEMO)
    with RunDirectory.open(config, run).running():
        waits = {
            "at": (NOW - timedelta(seconds=age_s)).isoformat(),
            "driver_waits_s": 28.0,
            "driver_waits_for": [
                {"actor": "learner-joint-0", "phase": "step", "calls": 1},
                {"actor": "rollout-0", "phase": "generate", "calls": 8},
            ],
            "actors": {name.replace("_", "-"): BEAT | beat for name, beat in beats.items()},
        }
        RunDirectory(run, config).note_waiting(waits)
        return {finding.check: finding for finding in run_findings(run, NOW)}


def test_who_waits_for_whom_is_said_with_phase_seconds_calls_and_version(tmp_path: Path) -> None:
    found = look(
        tmp_path / "run",
        learner_joint_0={},
        rollout_0={"phase": "generate", "num_open": 8, "usual_s": None},
        meta={"phase": ""},
    )
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["driver"].found == (
        "waits 30 s for learner-joint-0 (step), rollout-0 (generate x 8)"
    )
    assert found["learner-joint-0"].found == "step for 32 s (usually 2.5 s), version theta3.w3"
    assert found["rollout-0"].found == "generate for 32 s, 8 calls, version theta3.w3"
    assert found["meta"].found.startswith("idle for 32 s")
    assert f"pid {os.getpid()} on {socket.gethostname()}" in found["run"].found
    assert not list((tmp_path / "run").glob(".waiting*"))


@pytest.mark.parametrize(
    ("beat", "told"),
    [
        ({"silent_s": 25.0}, "has not answered for 25 s"),
        ({"children": STOPPED}, "VLLM::EngineCore (pid 9) is stopped"),
    ],
)
def test_who_hangs_stands_out(tmp_path: Path, beat: dict[str, Any], told: str) -> None:
    finding = look(tmp_path / "run", rollout_0=beat)["rollout-0"]
    assert finding.status == "warn"
    assert told in finding.found
    assert "logs/rollout-0.log" in finding.fix


def test_a_driver_that_does_not_write_computes_or_is_stopped(tmp_path: Path) -> None:
    finding = look(tmp_path / "run", age_s=40)["driver"]
    assert (finding.status, finding.found) == ("warn", "computes, or is stopped, for 40 s")


def test_a_run_that_is_over_says_how_and_a_driver_that_was_killed_is_missed(tmp_path: Path) -> None:
    look(tmp_path)
    (finding,) = run_findings(tmp_path)
    assert finding.found.startswith("finished at ")
    path = tmp_path / "run.json"
    gone = json.loads(path.read_text()) | {"status": "running", "pid": 2**22 + 1}
    path.write_text(json.dumps(gone))
    finding = next(run_findings(tmp_path))
    assert finding.status == "fail"
    assert "the same command goes on" in finding.fix


@pytest.mark.parametrize("content", ["", "[]", '{"at": 1}', '{"at": "2026-12-01", "actors": 1}'])
def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path, content: str) -> None:
    with RunDirectory.open(load_config(DEMO), tmp_path / "run").running():
        (tmp_path / "run/waiting.json").write_text(content)
        assert [f.status for f in run_findings(tmp_path / "run")] == ["ok", "warn"]


def test_the_command_takes_a_config_or_a_run(tmp_path: Path) -> None:
    runner = CliRunner()
    with pytest.raises(ConfigError, match="give CONFIG, or --run DIR"):
        runner.invoke(app, ["doctor"], catch_exceptions=False)
    with pytest.raises(RunDirectoryError, match="holds no run that can be read"):
        runner.invoke(app, ["doctor", "--run", str(tmp_path)], catch_exceptions=False)
    look(tmp_path / "run")
    done = runner.invoke(app, ["doctor", "--run", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "finished" in done.output


def test_what_a_damaged_file_holds_steers_no_terminal(tmp_path: Path) -> None:
    found = look(tmp_path / "run", rollout_0={"node_id": "\0\x1b[2J", "silent_s": 99.0})
    console = Console(file=(out := StringIO()), width=90)
    report(found.values(), console, as_json=False)
    assert "\0" not in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert r"on node \x00\x1b[2J" in out.getvalue()
