"""What real files are: cut off, packed, pipes, half characters, endless rows. One line says so."""

import gzip
import json
import os
from pathlib import Path

import pytest

from coop_rl.data import opening, rendering
from coop_rl.data.jsonl import open_jsonl
from coop_rl.data.load import load_run_data
from coop_rl.data.opening import read_lines
from coop_rl.data.rows import Wanted
from coop_rl.data.tables import open_parquet
from coop_rl.errors import DataError
from tests.data.test_collection import configure, write
from tests.support.in_process import coop_rl

GOOD = '{"prompt": "1+1=?\\n", "answer": "2"}'
WANTED = Wanted(("prompt", "answer"))
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
HALF = json.dumps("\ud83d")
LONG = "7" * 5000


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_jsonl([path], WANTED).bad.settle("this file", 2, 0.0)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f'{{"prompt": {HALF}, "answer": "1"}}', r"column 'prompt' holds half a character (\ud83d"),
        (f'{{"prompt": "1", "answer": {HALF}}}', "column 'answer' holds half a character"),
        (f'{{"prompt": "1", "answer": "1", "id": {HALF}}}', "column 'id' holds half a character"),
        ('{"prompt": "1"' + ' ' * 200 + ', "answer": "1"}', "a row may have 0 MiB, got more"),
        ('{"prompt": "\u00e9", "answer": "1"}', "not UTF-8 (byte 13 of the line is 0xe9)"),
        ('{"prompt": "1", "answer": NaN}', "column 'answer' must be text, got NaN"),
    ],
    ids=["prompt", "answer", "id", "long", "not UTF-8", "NaN"],
)  # fmt: skip
def test_a_bad_row_is_named_and_may_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, message: str
) -> None:
    monkeypatch.setattr(opening, "MOST_ROW_BYTES", 150)
    monkeypatch.setattr("coop_rl.data.jsonl.MOST_ROW_BYTES", 150)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join((GOOD.encode(), row.encode("latin-1"), GOOD.encode())))
    line = refused(path)
    assert line.startswith(f"{path}:2: ")
    assert message in line
    opened = open_jsonl([path], WANTED)
    assert [row.place for row in opened.rows] == [f"{path}:1", f"{path}:3"]
    assert opened.rows[1].columns == {"prompt": "1+1=?\n", "answer": "2"}


def test_half_characters_kill_no_run(tmp_path: Path) -> None:
    """They ended a run in the tokenizer, in ids in the middle of it."""
    rows = [f'{{"id": {HALF}, "prompt": "1=?\\n", "answer": "1"}}']
    path = write(tmp_path / "halves.jsonl", 30, *rows)
    sets = (f"prompts.path={path}", "method.kind=rl")
    with pytest.raises(DataError, match="'id' holds half"):
        load_run_data(configure(tmp_path, *sets))
    data = load_run_data(configure(tmp_path, *sets, "prompts.max_dropped=0.1"))
    assert (len(data.prompts), data.dropped[0].total) == (30, 1)


def test_whole_numbers_of_any_length_are_their_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": 1, "prompt": "1", "answer": {LONG}}}\n')
    assert open_jsonl([path], WANTED).rows[0].columns["answer"] == LONG
    (tmp_path / "rows.json").write_text(f'[{{"id": {LONG}, "prompt": "1", "answer": -{LONG}}}]')
    (row,) = open_jsonl([tmp_path / "rows.json"], WANTED).rows
    assert (row.id, row.columns["answer"]) == (LONG, f"-{LONG}")


def test_a_gold_answer_of_any_length_makes_one_short_line(tmp_path: Path) -> None:
    row = f'{{"id": "x", "prompt": "1=?\\n", "answer": {LONG}}}'
    path = write(tmp_path / "rows.jsonl", 2, row)
    sets = (f"prompts.path={path}", "method.kind=rl", "reward.kind=number", "prompts.per_step=2")
    with pytest.raises(
        DataError, match=r"rows.jsonl:3: no response can be right, .*777\.\.\."
    ) as e:
        load_run_data(configure(tmp_path, *sets))
    assert len(str(e.value)) < 500
    assert len(load_run_data(configure(tmp_path, *sets, "prompts.max_dropped=0.4")).prompts) == 2


def test_endless_prompts_are_not_tokenised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MOST_CHARACTERS_PER_TOKEN", 2)
    path = write(tmp_path / "rows.jsonl", 2)
    path.write_text(path.read_text() + json.dumps({"prompt": "1" * 600, "answer": "1"}) + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl:3: 600 characters do not fit .* at most 512"):
        load_run_data(configure(tmp_path, f"prompts.path={path}", "method.kind=rl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", POINTER.encode(), "is a pointer of Git LFS, not the data; run git lfs pull"),
        ("rows.jsonl.gz", gzip.compress(GOOD.encode() * 99)[:-12], "is a broken gzip file"),
        ("rows.jsonl.gz", gzip.compress(GOOD.encode())[:12], "is a broken gzip file"),
        ("rows.jsonl.gz", gzip.compress(b"x" * 999)[:14] + b"\xff" * 9, "is a broken gzip file"),
        ("rows.jsonl.gz", b"", "holds no rows"),
        ("rows.json", b'[{"prompt": 1,', "begins as a JSON array and is none"),
        ("rows.json", b"[" * 99_999, "begins as a JSON array and is none"),
        ("rows.json", b"[]", "holds no rows"),
    ],
)
def test_files_that_hold_no_rows_say_what_they_are(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    line = refused(tmp_path / name)
    assert str(tmp_path / name) in line
    assert message in line


def parquet(folder: Path) -> bytes:
    import datasets

    datasets.Dataset.from_list([json.loads(GOOD)]).to_parquet(folder / "good.parquet")
    return (folder / "good.parquet").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", "is empty"),
        (lambda folder: parquet(folder)[:-20], "is cut off"),
        (lambda _: POINTER.encode(), "is a pointer of Git LFS"),
        (lambda _: GOOD.encode(), "is no parquet file"),
        (lambda folder: parquet(folder)[:40] + b"x" * 300 + b"PAR1", "cannot read the data set"),
    ],
    ids=["empty", "cut", "pointer", "json", "damaged"],
)
def test_parquet_files_that_are_none(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        open_parquet([path], WANTED, None)
    assert len(str(caught.value).splitlines()) == 1
    assert "network" not in str(caught.value)


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="it is a pipe or a device; give an existing file"):
        load_run_data(configure(tmp_path, f"prompts.path={tmp_path / name}"))
    if name.endswith("jsonl"):
        with pytest.raises(DataError, match="it is a pipe"):
            next(read_lines(tmp_path / name))


def test_what_would_steer_a_terminal_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"\x1b]0;title\x07\n\ud83d": 1, "long": "x" * 999, **{str(i): 1 for i in range(999)}}))  # noqa: E501 # fmt: skip
    done = coop_rl("judge", str(path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert r"\x1b]0;title\x07\n\ud83d" in line
    assert len(line) < 1000


def test_benchmarks_and_judge_read_what_data_reads(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert [number for number, *_ in read_lines(path)] == [1]
