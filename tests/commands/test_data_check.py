"""`coop-rl data check`: what it prints, what it writes, what it refuses."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from coop_rl.commands.data_check import check_data
from coop_rl.data.load import load_run_data
from coop_rl.data.overlap import kind_of
from coop_rl.errors import ConfigError, DataError
from tests.data.test_collection import configure, write


def printed(config, drop: str | None = None, folder: Path | None = None) -> str:
    file = io.StringIO()
    check_data(config, kind_of(drop), folder, Console(file=file, width=120))
    return file.getvalue()


def test_overlaps_are_counted_shown_and_dropped(tmp_path: Path) -> None:
    """The rows r10 ... r29 of the prompts are the evaluation's."""
    held_out = write(tmp_path / "held_out.jsonl", 20, first=10)
    config = configure(tmp_path, f"evaluation.data.path={held_out}", "method.kind=rl")
    text = printed(config, "near", tmp_path / "clean")
    assert "in 20 evaluation questions" in text
    (line,) = [line for line in text.splitlines() if line.startswith("│ prompts")]
    assert [cell.strip() for cell in line.split("│")[2:8]] == ["30", "0", "20", "0", "0", "0"]
    assert f"{tmp_path}/held_out.jsonl:1" in text
    kept = [json.loads(line) for line in (tmp_path / "clean/prompts.jsonl").open()]
    assert [row["id"] for row in kept] == [f"r{i}" for i in range(10)]
    again = configure(
        tmp_path,
        f"evaluation.data.path={held_out}",
        "method.kind=rl",
        f"prompts.path={tmp_path}/clean/prompts.jsonl",
    )
    assert len(load_run_data(again).prompts) == 10
    assert "held_out.jsonl" not in printed(again)


def test_more_sets_of_the_evaluation_are_compared_too(tmp_path: Path) -> None:
    harder = write(tmp_path / "harder.jsonl", 5)
    more = configure(tmp_path, f"evaluation.more_data.harder.path={harder}")
    assert "in 30 evaluation questions" in printed(configure(tmp_path))
    assert "in 35 evaluation questions" in printed(more)


def test_every_source_the_method_uses_is_checked(tmp_path: Path) -> None:
    text = printed(configure(tmp_path))
    assert "│ prompts " in text
    assert "│ demonstrations " in text
    assert "│ demonstrations " not in printed(configure(tmp_path, "method.kind=rl"))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kind of overlap 'nearly'; allowed: same, near"):
        kind_of("nearly")
    with pytest.raises(ConfigError, match="--drop and --to go together"):
        printed(configure(tmp_path), "near")


def test_sources_of_which_no_row_can_be_read_are_an_error(tmp_path: Path) -> None:
    """Also by wrong columns: nothing was compared, so "no overlap" would be wrong."""
    with pytest.raises(
        DataError, match=r"prompts: none of 30 rows can be read: .*'question' is mi"
    ):
        printed(configure(tmp_path, "method.kind=rl", "prompts.prompt_column=question"))
    with pytest.raises(
        DataError, match=r"evaluation\.data: none of 30 rows can be read: .*missing"
    ):
        printed(configure(tmp_path, "evaluation.data.prompt_column=question"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no JSON\n" * 3, encoding="utf-8")
    with pytest.raises(DataError, match=r"demonstrations: none of 3 rows can be read: .*not JSON"):
        printed(configure(tmp_path, "method.kind=sft", f"demonstrations.path={bad}"))
