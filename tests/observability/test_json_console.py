"""`--json`: every line is an object that names its kind."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.commands import supervised
from coop_rl.commands import train as train_command
from coop_rl.config import derive_sizes, load_config
from coop_rl.data.rows import Dropped
from coop_rl.observability.json_console import JsonConsole
from coop_rl.observability.metrics import step_metrics
from coop_rl.report.at_end import conclude
from tests.observability.records import RIGHT, bridge
from tests.report.runs import write_run

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"


def said(tell) -> list[dict[str, Any]]:
    file = io.StringIO()
    tell(JsonConsole(Console(file=file, width=40)))
    return [json.loads(line, parse_constant=pytest.fail) for line in file.getvalue().splitlines()]


def test_a_run_from_its_plan_to_its_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", right={0: [True, False], 20: [True, True]})
    (run / "checkpoints/step-000020").mkdir(parents=True)
    config = load_config(DEMO)

    def tell(console: JsonConsole) -> None:
        console.show_plan(config, derive_sizes(config), run, None)
        console.dropped([Dropped("b.jsonl", 40, (("not JSON", 1, "b.jsonl:9: not JSON"),))])
        console.milestone("starting actors")
        console.begin(0, 2)
        console.evaluation(0, {"eval/sums/pass@1": 0.5, "eval/sums/format": math.nan})
        console.step(step_metrics(bridge(0), {"time/step_s": 2.0}))
        console.warn("nothing to learn from for 10 steps")
        console.sample("2+2=?\n", "\x1b[2J4", RIGHT)
        console.summary(run, [], 3.0)
        console.conclude(conclude(run))

    rows = said(tell)
    assert [row["kind"] for row in rows] == [
        "plan", "note", "note", "milestone", "evaluation", "step", "warning", "sample", "summary",
    ]  # fmt: skip
    plan, step, summary = rows[0], rows[5], rows[-1]
    assert plan["config"]["run"]["name"] == "demo"
    assert plan["run_directory"] == summary["run_directory"] == str(run)
    assert plan["resumes_from"] is None
    assert rows[4] == {
        "kind": "evaluation", "step": 0, "eval/sums/pass@1": 0.5, "eval/sums/format": None,
    }  # fmt: skip
    assert step["step"] == 0
    assert step["reward/mean"] == 0.75
    stored = json.loads((run / "summary.json").read_text())
    assert {k: v for k, v in summary.items() if k not in ("kind", "run_directory")} == stored
    assert any("coop-rl export" in command for command in summary["next"])


def test_a_summary_that_could_not_be_written_is_said(tmp_path: Path) -> None:
    def tell(console: JsonConsole) -> None:
        config = load_config(DEMO)
        console.show_plan(config, derive_sizes(config), tmp_path, None)
        console.summary(tmp_path, [], 1.0)
        console.conclude(["no report was written (OSError: full); the run is whole"])

    _, note, summary = said(tell)
    assert note["kind"] == "note"
    assert "no report" in note["text"]
    assert summary == {"kind": "summary", "run_directory": str(tmp_path)}


@pytest.mark.parametrize("command", [["train", str(DEMO)], ["demo"]])
def test_the_option_reaches_the_run(command: list[str], monkeypatch) -> None:
    got: list[dict[str, bool]] = []
    monkeypatch.setattr(train_command, "run_training", lambda *_, **given: got.append(given))
    # Without its fork, whose child is a pytest too.
    monkeypatch.setattr(supervised, "supervise", lambda *given: given[-1](given[2], None))
    for options in ([], ["--json"], ["--quiet"]):
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
    assert [(g["is_quiet"], g["is_json"]) for g in got] == [
        (False, False), (False, True), (True, False),
    ]  # fmt: skip
