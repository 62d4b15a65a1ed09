"""`coop-rl judge`: verdicts on responses that are there already, and where rows disagree."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.errors import ConfigError, DataError

FUNCTIONS = str(Path(__file__).parents[1] / "rewards/user_functions.py")


def written(path: Path, *rows: dict) -> str:
    file = path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(file)


def judge(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["judge", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_share_right_and_the_rows_judged_otherwise(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"response": r"\boxed{0.5}", "gold": "1/2", "right": True},
        {"response": r"\boxed{4}", "gold": "5", "right": True},
        {"response": "", "gold": "5", "right": False},
        {"response": "so far 4", "gold": "4", "truncated": True},
    )
    out = judge(file)
    assert "1 of 4 responses are right (25.0%); 2 have the form asked for" in out
    assert "2 of 3 as column right says" in out
    assert out.count("says otherwise") == 1
    assert f"{file}:2: judged wrong" in out
    assert "never" not in out


def test_columns_kinds_and_golds_that_no_response_can_match(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {"text": "at 10:30", "answer": "10:30"},
        {"text": "it is 7", "answer": 7},
    )
    out = judge(file, "--kind", "number", "--response-column", "text", "--gold-column", "answer")
    assert "1 of 2 responses are right (50.0%)" in out
    assert f"1 gold answers can never be right for kind number, the first at {file}:1" in out
    assert "column right" not in out
    file = written(tmp_path, {"response": r"\boxed{3}", "gold": "x", "golds": ["2", "3"]})
    assert "1 of 1" in judge(file, "--details-column", "golds")


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    file = written(tmp_path, {"response": "fine", "gold": ""}, {"response": "raise", "gold": ""})
    out = judge(file, "--kind", "python", "--function", f"{FUNCTIONS}:moody")
    assert "1 of 2 responses are right" in out
    assert "1 crashed: not judged" in out


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, {"response": "4", "gold": "4"})
    with pytest.raises(DataError, match="'answer' is missing, got response, gold; give"):
        judge(file, "--gold-column", "answer")
    with pytest.raises(ConfigError, match="--function goes with --kind python"):
        judge(file, "--kind", "python")
    with pytest.raises(DataError, match="holds no rows"):
        judge(written(tmp_path))
    with pytest.raises(DataError, match="must be text"):
        judge(written(tmp_path, {"response": None, "gold": "4"}))
