"""`coop-rl data prepare` on small folders in the hub's layout: the hub itself is not asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.commands.data_prepare import RECIPES, SetName
from coop_rl.data.jsonl import open_jsonl
from coop_rl.data.rows import Wanted
from coop_rl.errors import DataError
from tests.support.in_process import coop_rl

GSM8K: list[dict[str, Any]] = [
    {"question": "1000+2=?", "answer": "So <<1000+2=1002>>1002\n#### 1,002"},
    {"question": "?", "answer": "no marker"},
]
MATH: list[dict[str, Any]] = [
    {"problem": "1/2?", "solution": r"So $\boxed{\frac12}$.", "level": "Level 1", "type": "x"},
    {"problem": "?", "solution": "no box", "level": "Level 1", "type": "x"},
]
OPENR1: list[dict[str, Any]] = [
    {"uuid": "u1", "problem": "1+1", "answer": "2", "generations": ["a", "b", "c"],
     "correctness_math_verify": [True, False, True], "is_reasoning_complete": [False, True, True]},
    {"uuid": "u2", "problem": "?", "answer": "2", "generations": ["a"],
     "correctness_math_verify": [False], "is_reasoning_complete": [True]},
]  # fmt: skip


def stand_in(name: SetName, rows: list[dict[str, Any]], folder: Path, patch) -> None:
    """Let the recipe read a folder."""
    (folder / "hub").mkdir()
    for source in RECIPES[name].splits:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "hub" / f"{source.split}.jsonl").write_text(text)
    local = {"name": str(folder / "hub"), "subset": None}
    splits = tuple(source.model_copy(update=local) for source in RECIPES[name].splits)
    patch.setitem(RECIPES, name, replace(RECIPES[name], splits=splits))


@pytest.mark.parametrize(
    ("name", "rows", "made"),
    [
        ("gsm8k", GSM8K, {"id": "train-0", "problem": "1000+2=?", "answer": "1002",
                          "solution": "So 1002"}),
        ("math", MATH, {"id": "train-0", "problem": "1/2?", "answer": r"\frac12",
                        "solution": r"So $\boxed{\frac12}$."}),
        ("openr1", OPENR1, {"id": "u1", "problem": "1+1", "answer": "2", "response": "c"}),
    ],
)  # fmt: skip
def test_sets_become_files_a_config_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: SetName, rows: Any, made: Any
) -> None:
    stand_in(name, rows, tmp_path, monkeypatch)
    arguments = ["data", "prepare", name, "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    path = tmp_path / "out" / name / "train.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [made]
    assert f"{path}: 1 rows, 1 left out" in done.output
    third = "response_column: response" if name == "openr1" else "reasoning_column: solution"
    assert third in done.output
    assert len(open_jsonl([path], Wanted(("problem", "answer"))).rows) == 1
    assert path.with_name("test.jsonl").is_file() == (name != "openr1")


def test_a_set_with_other_columns_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("gsm8k", [{"problem": "1", "answer": "2 #### 2"}], tmp_path, monkeypatch)
    arguments = ["data", "prepare", "gsm8k", "--to", str(tmp_path / "out")]
    with pytest.raises(DataError, match=r"other columns now .KeyError: 'question'; got problem"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_without_a_hub_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = coop_rl("data", "prepare", "openr1", "--to", str(tmp_path / "out"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot read the data set open-r1/OpenR1-Math-220k" in line
    assert "the network" in line
    assert not (tmp_path / "out").exists()
