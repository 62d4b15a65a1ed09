"""Files that `observer` writes rows to: JSONL that is never torn, and TensorBoard events."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coop_rl.errors import RunError
from coop_rl.files import write_text

JsonObject = dict[str, Any]


class JsonlSink:
    """An append-only file of JSON objects: rows are whole, and on disk when `write` returns.

    Only `rewind` takes rows away: a resumed run repeats the steps after its checkpoint, and a file
    with two rows for one step would draw every curve twice.
    """

    def __init__(self, path: Path) -> None:
        """Open for appending; a torn last line, left by a crash, is cut off.

        Raises:
            RunError: The file cannot be opened.
        """
        self._path = path
        self._descriptor = -1
        _guard(path, self._open)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row.

        Raises:
            RunError: The disk is full or gone; the file holds whole rows still.
        """
        line = json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
        # A lone surrogate, which a model's bytes can decode to, has no UTF-8 form.
        data = line.encode("utf-8", errors="replace")
        _guard(self._path, lambda: self._append(data))

    def rewind(
        self,
        is_kept: Callable[[JsonObject], bool],
        keep_aside: Callable[[list[JsonObject]], None] = lambda _: None,
    ) -> None:
        """Keep only some of the rows that can be read, replacing the file at once.

        `keep_aside` gets the others first, where there are any.

        Raises:
            RunError: The file cannot be replaced; the old one stands.
        """
        rows, unreadable = read_rows(self._path)
        kept = [row for row in rows if is_kept(row)]
        if dropped := [row for row in rows if not is_kept(row)]:
            keep_aside(dropped)
        if len(kept) < len(rows) or unreadable:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            _guard(self._path, lambda: self._replace(lines))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._descriptor, whole)

    def _append(self, data: bytes) -> None:
        size = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, data) < len(data):
                raise OSError("disk full")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def _replace(self, text: str) -> None:
        self.close()
        write_text(self._path, text)
        self._open()


def read_jsonl(path: Path) -> list[JsonObject]:
    """Return the whole rows of a file another process may be writing to."""
    return read_rows(path)[0]


def read_rows(path: Path) -> tuple[list[JsonObject], list[int]]:
    """Return the rows of a file, and the numbers, from 1, of whole lines that hold none.

    A machine that lost its power may leave NULs. Lines end in a line feed alone: what models write
    may hold any of Unicode's other line ends.
    """
    rows: list[JsonObject] = []
    unreadable: list[int] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        row = parse_row(line)
        if row is not None and type(row.get("step")) is int:
            rows.append(row)
        elif line:
            unreadable.append(number)
    return rows, unreadable


def parse_row(line: str | bytes) -> JsonObject | None:
    """Return the JSON object of a line; None where it holds none that could be written again.

    JSON can escape half a character, which has no UTF-8 form; Python's reads it unescaped, too.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line
        row = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _guard(path: Path, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"driver cannot write {path}: {reason}; free space there and resume"
        ) from None


class TensorBoardSink:
    """The same figures as events for TensorBoard; quantities that are null leave a gap."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Write into `folder`; events of `first_step` and later, from before a resume, go."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

        self._writer = SummaryWriter(log_dir=str(folder), purge_step=first_step or None)

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Write one row's numbers.

        Raises:
            RunError: The disk is full or gone.
        """
        _guard(Path(self._writer.log_dir), lambda: self._add(step, metrics))

    def _add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        for name, value in metrics.items():
            if value is not None and name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
