"""Reads JSONL rows and refuses bad ones with file and line; `data.load` calls it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from coop_rl.errors import DataError

ID_COLUMN = "id"
EXCERPT = 40
"""Characters of a bad value that an error quotes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file, its wanted columns as text."""

    place: str
    """`file:line`, for errors about the row."""
    id: str
    """The row's `id` column, or its line number where it has none."""
    columns: dict[str, str]
    """Wanted column -> text; whole numbers are written out."""


def read_rows(path: Path, columns: Sequence[str], limit: int | None = None) -> list[Row]:
    """Read the rows of a file, at most `limit` from the top; blank lines are passed over.

    Args:
        path: One JSON object a line, UTF-8.
        columns: Columns every row must have, as text or whole number.
        limit: Rows wanted; None: all.

    Raises:
        DataError: The file is missing, empty or not UTF-8, a row is bad (the first one is named,
            all are counted), or two rows have the same id.
    """
    rows: list[Row] = []
    problems: list[str] = []
    for number, line in islice(_lines(path), limit):
        place = f"{path}:{number}"
        parsed = _parse(line, number, columns, place)
        if isinstance(parsed, Row):
            rows.append(parsed)
        else:
            problems.append(f"{place}: {parsed}")
    if problems:
        more = f" ({len(problems)} rows of this file are bad)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    if not rows:
        raise DataError(f"{path} holds no rows; give a file with one JSON object a line")
    _refuse_duplicates(rows)
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield non-blank lines with their 1-based number."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line is "
                        f"0x{raw[error.start]:02x}); save the file as UTF-8"
                    ) from None
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(
            f"cannot read data file {path}: {error.strerror}; give an existing file"
        ) from None


def _parse(line: str, number: int, columns: Sequence[str], place: str) -> Row | str:
    """Return the row, or what is wrong with it."""
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not JSON ({error}); write one JSON object a line"
    if not isinstance(value, dict):
        return f"a row must be a JSON object, got {_excerpt(value)}"
    texts: dict[str, str] = {}
    for column in columns:
        if column not in value:
            found = ", ".join(map(str, value)) or "none"
            return f"column {column!r} is missing, got {found}; add it or set another in the config"
        text = _as_text(value[column])
        if text is None:
            return f"column {column!r} must be text, got {_excerpt(value[column])}"
        if not text.strip():
            return f"column {column!r} is empty; fill it or drop the row"
        texts[column] = text
    identity = _as_text(value.get(ID_COLUMN, number))
    if identity is None:
        return (
            f"column {ID_COLUMN!r} must be text or a whole number, got {_excerpt(value[ID_COLUMN])}"
        )
    return Row(place, identity, texts)


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
    text = json.dumps(value)
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "..."


def _refuse_duplicates(rows: Sequence[Row]) -> None:
    """Ids are part of the sampling seed: two rows of one id would be sampled alike."""
    first: dict[str, str] = {}
    for row in rows:
        if row.id in first:
            raise DataError(
                f"{row.place}: ids must be unique, got {row.id!r} as at {first[row.id]}; rename one"
            )
        first[row.id] = row.place
