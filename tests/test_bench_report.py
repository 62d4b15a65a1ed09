import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

import report  # noqa: E402
import run_all  # noqa: E402


def test_measures_come_back_as_saved(tmp_path):
    measures = [
        report.of_ratios("sync", [0.7, 0.5, 0.65], floor=0.6, detail={"ours": 3.0}),
        report.Measure("memory", 3.5, 3.4, 3.6, floor=3.0, higher_is_better=False),
        report.Measure("curve", 1.0, 1.0, 1.0),
    ]
    path = report.save("sync", measures, tmp_path)
    assert report.load("sync", tmp_path) == measures
    assert (measures[0].ratio, measures[0].low, measures[0].high) == (0.65, 0.5, 0.7)
    assert [row["is_met"] for row in json.loads(path.read_text())] == [True, False, None]


def test_no_repetition_is_an_error():
    with pytest.raises(ValueError, match="sync: no repetition"):
        report.of_ratios("sync", [])


def test_a_script_that_fails_or_saves_nothing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    monkeypatch.setattr(run_all, "RESULTS", tmp_path)
    (tmp_path / "broken.py").write_text("raise SystemExit(3)")
    (tmp_path / "silent.py").write_text("")
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    # Figures of an earlier run must not stand in for those of the script that failed now.
    report.save("silent", [report.Measure("old", 1.0, 1.0, 1.0)], tmp_path)
    found = {
        name: run_all.run_script(name, 1.0) for name in ("broken", "silent", "slow", "missing")
    }
    assert found == {
        "broken": "exit code 3",
        "silent": "saved no measures",
        "slow": "not done within 1 s",
        "missing": "no such script",
    }
    assert run_all.merged(found)["broken"] == {"failed": "exit code 3"}


def test_table_shows_missed_floors():
    measure = report.of_ratios("sync", [0.5], floor=0.6, detail={"ours": 3.0, "reference": 6.0})
    console = Console(width=100, record=True)
    console.print(run_all.table_of({"sync": [measure]}))
    (row,) = [line for line in console.export_text().splitlines() if "0.5" in line]
    assert "≥ 0.6" in row
    assert "NO" in row
