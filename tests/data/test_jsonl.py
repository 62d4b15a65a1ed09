"""Bad rows are refused with file and line, and the count of them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from coop_rl.data.jsonl import open_jsonl
from coop_rl.data.rows import TextRow, Wanted
from coop_rl.errors import DataError

GOOD = '{"prompt": "1+1=?", "answer": "2"}'
COLUMNS = ("prompt", "answer")


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines) + b"\n")
    return path


def read_rows(path: Path, columns: Sequence[str], limit: int | None = None) -> list[TextRow]:
    read = open_jsonl([path], Wanted(tuple(columns)), limit)
    read.bad.settle("this file", len(read.rows) + read.bad.total, 0.0)
    return list(read.rows)


def test_rows_keep_order_place_and_text(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "", '{"id": "x", "prompt": "{{\\n", "answer": 7, "more": null}')
    first, second = read_rows(path, COLUMNS)
    assert (first.id, first.place) == ("1", f"{path}:1")
    assert first.columns == {"prompt": "1+1=?", "answer": "2"}
    assert (second.id, second.place, second.columns["answer"]) == ("x", f"{path}:3", "7")


def test_limit_reads_from_the_top(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, GOOD, "not read")
    assert len(read_rows(path, COLUMNS, limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "1"}', r"rows.jsonl:2: column 'answer' is missing, got prompt"),
        ("{broken", r"rows.jsonl:2: not JSON"),
        ("[1, 2]", r"rows.jsonl:2: a row must be a JSON object, got \[1, 2\]"),
        pytest.param("[" * 100_000, r"rows.jsonl:2: not JSON", id="nested"),
        (
            '{"prompt": "1", "answer": null}',
            r"rows.jsonl:2: column 'answer' must be text, got null",
        ),
        ('{"prompt": "1", "answer": 0.1}', r"rows.jsonl:2: column 'answer' must be text, got 0.1"),
        (
            '{"prompt": "1", "answer": true}',
            r"rows.jsonl:2: column 'answer' must be text, got true",
        ),
        ('{"prompt": " ", "answer": "1"}', r"rows.jsonl:2: column 'prompt' is empty"),
        ('{"prompt": "1", "answer": "1", "id": []}', r"rows.jsonl:2: column 'id' must be text"),
        (b'{"prompt": "\xe9", "answer": "1"}', r"rows.jsonl:2: not UTF-8 \(byte 13 .* 0xe9\)"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, line: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path, GOOD, line), COLUMNS)


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: not JSON.*\(2 rows of this file are bad\)"):
        read_rows(write(tmp_path, "x", GOOD, "y"), COLUMNS)


def test_equal_ids_are_refused(tmp_path: Path) -> None:
    row = '{"id": "a", "prompt": "1", "answer": "1"}'
    with pytest.raises(DataError, match=r"rows.jsonl:2: ids must be unique, got 'a' as at .*:1"):
        read_rows(write(tmp_path, row, row), COLUMNS)


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(write(tmp_path, "", " "), COLUMNS)
    with pytest.raises(DataError, match=r"cannot read data file .*none.jsonl"):
        read_rows(tmp_path / "none.jsonl", COLUMNS)
    with pytest.raises(DataError, match="cannot read data file"):
        read_rows(tmp_path, COLUMNS)
