"""JSONL files as rows by position: one pass checks every line and keeps where the good ones start.

Memory: 12 bytes a row (20 while indexing), whatever its length; rows are read when asked for.
"""

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from coop_rl.data.rows import BadRows, ByPosition, ReadRows, RowError, TextRow
from coop_rl.errors import DataError

ID_COLUMN = "id"
EXCERPT_CHARACTERS = 40
"""Characters of a bad value that an error quotes."""


def open_jsonl(
    paths: Sequence[Path],
    columns: Sequence[str],
    details: Sequence[str] = (),
    limit: int | None = None,
) -> ReadRows:
    """Check every line of the files; blank lines are passed over.

    Args:
        paths: One JSON object a line, UTF-8.
        columns: Columns every row must have, as text or whole number.
        details: Columns that go into `TextRow.details`.
        limit: Rows wanted of each file, from the top; None: all.

    Raises:
        DataError: A file is missing, or not UTF-8, or there is no row at all.
    """
    rows, bad = JsonlRows(paths, columns, details), BadRows()
    for file in range(len(paths)):
        rows.add_file(file, bad, limit)
    rows.drop_duplicates(bad)
    if not rows and not bad.total:
        named = ", ".join(map(str, paths))
        raise DataError(f"{named} holds no rows; give a file with one JSON object a line")
    return ReadRows(rows, bad)


class JsonlRows(ByPosition[TextRow]):
    """The good rows of files, read when asked for."""

    def __init__(
        self, paths: Sequence[Path], columns: Sequence[str], details: Sequence[str]
    ) -> None:
        """Hold no row yet: `add_file` adds the rows of a file."""
        self._paths, self._columns, self._details = paths, columns, details
        self._offset, self._line = array("q"), array("I")
        self._hash = array("Q")
        """Hashes of the ids that rows name; empty again once duplicates are out."""
        self._starts: list[int] = []
        """Position of each file's first row."""

    def add_file(self, file: int, bad: BadRows, limit: int | None) -> None:
        """Add the good rows of a file; bad ones go to `bad`."""
        self._starts.append(len(self._offset))
        for number, offset, line in islice(read_lines(self._paths[file]), limit):
            try:
                row, has_id = self._parse(file, number, line)
            except RowError as error:
                bad.add(error)
                continue
            if has_id:
                self._hash.append(_hash(row.id))
            self._offset.append(offset)
            self._line.append(number)

    def drop_duplicates(self, bad: BadRows) -> None:
        """Leave out rows with an id seen before: ids seed the sampling, two would sample alike."""
        hashes = np.frombuffer(self._hash, dtype=np.uint64)
        hashes.sort()
        repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        del hashes
        self._hash = array("Q")
        if not repeated:
            return
        first: dict[int, str] = {}
        kept = []
        for position in range(len(self)):
            row = self[position]
            key = _hash(row.id)
            if key in repeated and key in first:
                message = f"ids must be unique, got {row.id!r} as at {first[key]}; rename one"
                bad.add(RowError(row.place, message, "id seen before"))
                continue
            if key in repeated:
                first[key] = row.place
            kept.append(position)
        self._starts = [int(np.searchsorted(kept, start)) for start in self._starts]
        self._offset = array("q", (self._offset[position] for position in kept))
        self._line = array("I", (self._line[position] for position in kept))

    def __len__(self) -> int:
        """Return the good rows."""
        return len(self._offset)

    def item(self, position: int) -> TextRow:
        """Read a row."""
        file = bisect_right(self._starts, position) - 1
        with self._paths[file].open("rb") as stream:
            stream.seek(self._offset[position])
            raw = stream.readline()
        return self._parse(file, self._line[position], raw.decode("utf-8-sig"))[0]

    def _parse(self, file: int, number: int, line: str) -> tuple[TextRow, bool]:
        path = self._paths[file]
        place = f"{path}:{number}"
        value = parse_object(place, line)
        default_id = number if len(self._paths) == 1 else f"{path.name}:{number}"
        row = to_row(place, default_id, value, self._columns, self._details)
        return row, ID_COLUMN in value


def parse_object(place: str, line: str) -> dict[str, Any]:
    """Read one line.

    Raises:
        RowError: It is no JSON object.
    """
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        message = f"not JSON ({error}); write one JSON object a line"
        raise RowError(place, message, "not JSON") from None
    if not isinstance(value, dict):
        message = f"a row must be a JSON object, got {_excerpt(value)}"
        raise RowError(place, message, "no JSON object")
    return value


def to_row(
    place: str,
    default_id: str | int,
    value: Mapping[str, object],
    columns: Sequence[str],
    details: Sequence[str] = (),
) -> TextRow:
    """Return the wanted columns of an object.

    Raises:
        RowError: A column is missing, empty, or no text.
    """
    texts: dict[str, str] = {}
    for column in (*columns, *details):
        if column not in value:
            found = ", ".join(map(str, value)) or "none"
            message = (
                f"column {column!r} is missing, got {found}; add it or set another in the config"
            )
            raise RowError(place, message, "column missing")
    for column in columns:
        text = _as_text(value[column])
        if text is None:
            message = f"column {column!r} must be text, got {_excerpt(value[column])}"
            raise RowError(place, message, "column no text")
        if not text.strip():
            message = f"column {column!r} is empty; fill it or drop the row"
            raise RowError(place, message, "column empty")
        texts[column] = text
    identity = _as_text(value.get(ID_COLUMN, default_id))
    if identity is None:
        got = _excerpt(value[ID_COLUMN])
        message = f"column {ID_COLUMN!r} must be text or a whole number, got {got}"
        raise RowError(place, message, "id no text")
    more = {column: value[column] for column in details}
    return TextRow(place, identity, texts, json.dumps(more, default=str) if more else "")


def read_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield non-blank lines with their 1-based number and the byte they start at.

    Raises:
        DataError: The file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            offset = 0
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line is "
                        f"0x{raw[error.start]:02x}); save the file as UTF-8"
                    ) from None
                if line.strip():
                    yield number, offset, line
                offset += len(raw)
    except OSError as error:
        raise DataError(
            f"cannot read data file {path}: {error.strerror}; give an existing file"
        ) from None


def _as_text(value: object) -> str | None:
    """Return text as it is and whole numbers written out; None for anything else.

    Other numbers have no one spelling (0.10 or 0.1), so an answer must give its own.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _excerpt(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= EXCERPT_CHARACTERS else text[:EXCERPT_CHARACTERS] + "..."


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
