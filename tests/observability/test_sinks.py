"""metrics.jsonl is never torn: not by a crash, a full disk, or a resume."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coop_rl.errors import RunError
from coop_rl.observability.sinks import (
    JsonlSink,
    TensorBoardSink,
    read_jsonl,
    read_rows,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_rows_are_on_disk_when_write_returns(path: Path) -> None:
    sink = JsonlSink(path)
    sink.write({"step": 0, "loss/rl": None, "text": "ψ\n\ud800"})
    assert json.loads(path.read_text()) == {"step": 0, "loss/rl": None, "text": "ψ\n?"}
    sink.close()


@pytest.mark.parametrize("torn", ['{"step": 2, "re', "\ufeff", '{"step": 2}'])
def test_torn_last_line_is_cut_off_on_reopening(path: Path, torn: str) -> None:
    path.write_text('{"step": 0}\n{"step": 1}\n' + torn)
    assert [row["step"] for row in read_jsonl(path)] == [0, 1]
    sink = JsonlSink(path)
    sink.write({"step": 2})
    sink.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]


LINE_ENDS = "a\u2028b\u2029c\x85d\x0be\x1cf"


def test_what_models_write_ends_no_line(path: Path) -> None:
    sink = JsonlSink(path)
    for step in range(3):
        sink.write({"step": step, "response": LINE_ENDS})
    sink.rewind(lambda row: row["step"] < 2)
    sink.close()
    assert read_jsonl(path) == [{"step": step, "response": LINE_ENDS} for step in range(2)]


@pytest.mark.parametrize(
    "bad", [b"\0\0", b"\xff", b"null", b"{}", b"[3]", b'{"step": "1"}', b"[" * 9999, b'{"step"']
)
def test_lines_without_a_row_are_named_and_dropped(path: Path, bad: bytes) -> None:
    path.write_bytes(b'{"step": 0}\n' + bad + b'\n{"step": 2}\n')
    assert read_rows(path) == ([{"step": 0}, {"step": 2}], [2])
    sink = JsonlSink(path)
    sink.rewind(lambda _: True)
    sink.close()
    assert path.read_bytes() == b'{"step": 0}\n{"step": 2}\n'


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\uD83D", b"\xed\xa0\xbd"])
def test_half_a_character_makes_a_row_unreadable(path: Path, half: bytes) -> None:
    """Python's JSON takes each of them, and nothing could write it again."""
    path.write_bytes(b'{"step": 0}\n{"step": 1, "text": "' + half + b'"}\n')
    assert read_rows(path) == ([{"step": 0}], [2])


def test_a_killed_writer_leaves_whole_rows(path: Path) -> None:
    code = f"""
from pathlib import Path
from coop_rl.observability.sinks import JsonlSink
sink = JsonlSink(Path({str(path)!r}))
for step in range(10**9):
    sink.write({{"step": step, "text": "x" * 5000}})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not path.exists() or path.stat().st_size < 200_000:
        assert process.poll() is None
    process.kill()
    process.wait()
    before = [row["step"] for row in read_jsonl(path)]
    JsonlSink(path).close()
    assert [row["step"] for row in read_jsonl(path)] == before == list(range(len(before)))


def test_no_nan_reaches_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        JsonlSink(path).write({"step": float("nan")})
    assert path.read_text() == ""


def test_full_disk_leaves_whole_rows_and_says_so(path: Path) -> None:
    sink = JsonlSink(path)
    sink.write({"step": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(RunError, match=r"driver cannot write .*metrics.jsonl: "):
            sink.write({"step": 1, "text": "long enough"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_text() == '{"step": 0}\n'
    sink.write({"step": 1})
    assert len(read_jsonl(path)) == 2


def test_rewind_keeps_chosen_rows_and_goes_on(path: Path) -> None:
    sink = JsonlSink(path)
    for step in range(5):
        sink.write({"step": step})
    sink.rewind(lambda row: row["step"] < 3)
    sink.write({"step": 3})
    assert [row["step"] for row in read_jsonl(path)] == [0, 1, 2, 3]


def test_unwritable_place_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        JsonlSink(tmp_path / "none" / "metrics.jsonl")


def test_tensorboard_gets_numbers_and_purges_repeated_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path, 0)
    for step in range(4):
        sink.write(step, {"step": step, "reward/mean": 0.5, "gain/value": None})
    sink.close()
    resumed = TensorBoardSink(tmp_path, 2)
    resumed.write(2, {"reward/mean": 0.75})
    resumed.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [
        (0, 0.5),
        (1, 0.5),
        (2, 0.75),
    ]
