"""JSONL files as rows by position: one pass checks every line and keeps where the good ones start.

Memory: 12 bytes a row (20 while indexing), whatever its length; rows are read when asked for. The
good rows of gzip files and of JSON arrays are written out for that, into a file without a name in
TMPDIR, which is gone with the process.
"""

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import numpy as np

from coop_rl.data.chats import Chat, is_chat, read_chat
from coop_rl.data.opening import MOST_ROW_BYTES, has_lines, read_json, read_lines
from coop_rl.data.rows import BadRows, ByPosition, ReadRows, RowError, TextRow, Wanted
from coop_rl.errors import DataError, printable

ID_COLUMN = "id"
EXCERPT_CHARACTERS = 40
"""Characters of a bad value that an error quotes."""
MOST_NAMES_CHARACTERS = 300
"""Characters of a row's column names that an error quotes."""
MISSING = object()
"""What `look_up` gives where there is no such column."""


def open_jsonl(paths: Sequence[Path], wanted: Wanted, limit: int | None = None) -> ReadRows:
    """Check every line of the files; blank lines are passed over.

    Args:
        paths: One JSON object a line, UTF-8, or gzip of that; .json files may hold an array.
        wanted: What is read of each row.
        limit: Rows wanted of each file, from the top; None: all.

    Raises:
        DataError: A file is missing or cannot be read, or there is no row at all.
    """
    rows, bad = JsonlRows(paths, wanted), BadRows()
    for file in range(len(paths)):
        rows.add_file(file, bad, limit)
    rows.drop_duplicates(bad)
    if not rows and not bad.total:
        named = ", ".join(map(str, paths))
        raise DataError(f"{named} holds no rows; give a file with one JSON object a line")
    return ReadRows(rows, bad)


class JsonlRows(ByPosition[TextRow]):
    """The good rows of files, read when asked for."""

    def __init__(self, paths: Sequence[Path], wanted: Wanted) -> None:
        """Hold no row yet: `add_file` adds the rows of a file."""
        self._paths, self._wanted = paths, wanted
        self._readable: list[Path] = []
        """Where the rows of each file are read: there, or in `_unpacked`."""
        self._unpacked: BinaryIO | None = None
        self._offset, self._line = array("q"), array("I")
        self._hash = array("Q")
        """Hashes of the ids that rows name; empty again once duplicates are out."""
        self._starts: list[int] = []
        """Position of each file's first row."""

    def add_file(self, file: int, bad: BadRows, limit: int | None) -> None:
        """Add the good rows of a file; bad ones go to `bad`."""
        path = self._paths[file]
        store = None if has_lines(path) else self._unpack()
        self._readable.append(Path(f"/proc/self/fd/{store.fileno()}") if store else path)
        self._starts.append(len(self._offset))
        for number, offset, line in islice(read_lines(path), limit):
            try:
                row, has_id = self._parse(file, number, line)
            except RowError as error:
                bad.add(error)
                continue
            if has_id:
                self._hash.append(_hash(row.id))
            self._offset.append(_append(store, line) if store else offset)
            self._line.append(number)
        if store:
            store.flush()

    def _unpack(self) -> BinaryIO:
        """Return the file for rows that have to be written out."""
        if self._unpacked is None:
            self._unpacked = cast("BinaryIO", TemporaryFile())  # noqa: SIM115 - as long as the rows
        return self._unpacked

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
        with self._readable[file].open("rb") as stream:
            stream.seek(self._offset[position])
            line = stream.readline()
        return self._parse(file, self._line[position], line)[0]

    def _parse(self, file: int, number: int, line: bytes) -> tuple[TextRow, bool]:
        path = self._paths[file]
        place = f"{path}:{number}"
        value = parse_object(place, line)
        default_id = number if len(self._paths) == 1 else f"{path.name}:{number}"
        row = to_row(place, default_id, value, self._wanted)
        return row, ID_COLUMN in value


def parse_object(place: str, line: bytes) -> dict[str, Any]:
    """Read one line.

    Raises:
        RowError: It is no JSON object.
    """
    if len(line) > MOST_ROW_BYTES:
        message = f"a row may have {MOST_ROW_BYTES >> 20} MiB, got more; shorten or drop it"
        raise RowError(place, message, "too long")
    try:
        value = read_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        message = (
            f"not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x}); save "
            "the file as UTF-8"
        )
        raise RowError(place, message, "not UTF-8") from None
    except (ValueError, RecursionError) as error:
        message = f"not JSON ({error}); write one JSON object a line"
        raise RowError(place, message, "not JSON") from None
    if not isinstance(value, dict):
        message = f"a row must be a JSON object, got {_excerpt(value)}"
        raise RowError(place, message, "no JSON object")
    return value


def to_row(
    place: str, default_id: str | int, value: Mapping[str, object], wanted: Wanted
) -> TextRow:
    """Return the wanted columns of an object.

    Raises:
        RowError: A column is missing, empty, or no text.
    """
    texts: dict[str, str] = {}
    chats: dict[str, Chat] = {}
    for column in (*wanted.columns, *wanted.optional):
        found = look_up(value, column)
        if isinstance(found, str):
            texts[column] = require_text(place, column, found)
        elif found is MISSING and column in wanted.columns:
            raise _missing(place, column, value)
        elif is_chat(found):
            chats[column] = _chat(place, column, found)
        elif found is not MISSING:
            texts[column] = require_text(place, column, found)
    identity = _as_text(value.get(ID_COLUMN, default_id))
    if identity is None:
        got = _excerpt(value[ID_COLUMN])
        message = f"column {ID_COLUMN!r} must be text or a whole number, got {got}"
        raise RowError(place, message, "id no text")
    require_whole_characters(place, ID_COLUMN, identity)
    more = {column: look_up(value, column) for column in wanted.details}
    for column in wanted.details:
        if more[column] is MISSING:
            raise _missing(place, column, value)
    details = json.dumps(more, default=str) if more else ""
    whole = json.dumps(value, default=str) if wanted.is_whole else ""
    return TextRow(place, identity, texts, details, chats, whole)


def look_up(value: Mapping[str, object], name: str) -> object:
    """Return the column of that name; a dot goes into an object, or to an item of a list.

    So `reward_model.ground_truth`, `generations.0`. MISSING: there is none.
    """
    if name in value:
        return value[name]
    inside: object = value
    for part in name.split("."):
        if isinstance(inside, Mapping) and part in inside:
            inside = inside[part]
        elif isinstance(inside, list) and part.isdecimal() and int(part) < len(inside):
            inside = inside[int(part)]
        else:
            return MISSING
    return inside


def require_text(place: str, column: str, value: object) -> str:
    """Return a column's text.

    Raises:
        RowError: It is none, or empty.
    """
    text = _as_text(value)
    if text is None:
        message = f"column {column!r} must be text, got {_excerpt(value)}"
        raise RowError(place, message, "column no text")
    if not text.strip():
        message = f"column {column!r} is empty; fill it or drop the row"
        raise RowError(place, message, "column empty")
    require_whole_characters(place, column, text)
    return text


def require_whole_characters(place: str, column: str, text: str) -> None:
    r"""Refuse half characters, as `\ud83d` alone is: no tokenizer, file or process takes them.

    Raises:
        RowError: Names the first.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        message = (
            f"column {column!r} holds half a character ({half}, character {error.start + 1}); "
            "write the whole one, or drop the row"
        )
        raise RowError(place, message, "not Unicode") from None


def names_of(row: Mapping[str, object]) -> str:
    """Return the names of a row's columns, for messages."""
    return printable(shortened(", ".join(map(str, row)) or "none", MOST_NAMES_CHARACTERS))


def shortened(text: str, length: int) -> str:
    """Return a text that is at most so long, but for its dots."""
    return text if len(text) <= length else text[:length] + "..."


def _chat(place: str, column: str, value: object) -> Chat:
    try:
        chat = read_chat(value)
    except ValueError as error:
        message = f"column {column!r}: {error}"
        raise RowError(place, message, "messages") from None
    for turn in chat:
        require_whole_characters(place, column, turn.text)
    if not chat[-1].text.strip():
        message = f"column {column!r}: the last turn is empty; fill it or drop the row"
        raise RowError(place, message, "column empty")
    return chat


def _missing(place: str, column: str, value: Mapping[str, object]) -> RowError:
    """Say what there is instead."""
    chats = [name for name in value if is_chat(value[name])]
    hint = f" ({chats[0]!r} holds messages: docs/data.md says which names to set)" if chats else ""
    message = (
        f"column {column!r} is missing, got {names_of(value)}; add it or set another in the "
        f"config{hint}"
    )
    return RowError(place, message, "column missing")


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
    return shortened(json.dumps(value, default=str), EXCERPT_CHARACTERS)


def _append(store: BinaryIO, line: bytes) -> int:
    """Write a line out; return where it starts."""
    offset = store.tell()
    store.write(line if line.endswith(b"\n") else line + b"\n")
    return offset


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
