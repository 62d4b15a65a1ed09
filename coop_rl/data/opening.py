"""Data files as they lie on a disk: plain, gzip, or one JSON array; `jsonl` and `tables` open them.

A file is known by its first bytes, not by its name, but for the array: `[` may begin a bad row too.
What cannot be data is refused by what it is: a folder, a pipe (reading it would wait for ever, and
rows are read more than once), a pointer of Git LFS, a file cut off.
"""

import json
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import GzipFile
from pathlib import Path
from typing import BinaryIO, cast

from coop_rl.errors import DataError, first_line

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_ROW_BYTES = 32 << 20
"""A longer row is bad; no more of it is read into memory."""
HEAD_BYTES = 64


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield non-blank lines with their 1-based number and the (unpacked) byte they start at.

    Of a line of more than MOST_ROW_BYTES so many and one are given. The items of a JSON array are
    given as lines.

    Raises:
        DataError: The file is none, or cannot be read.
    """
    with _reading(path) as file:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        if head.startswith(LFS_POINTER):
            raise DataError(pointer_message(path))
        if _is_array(path, head):
            yield from _items(path, file)
            return
        number, offset = 0, 0
        while line := file.readline(MOST_ROW_BYTES + 1):
            number += 1
            size = len(line)
            if size > MOST_ROW_BYTES and not line.endswith(b"\n"):
                size += _pass_over(file)
            if not line.isspace() and line.strip() != BYTE_ORDER_MARK:
                yield number, offset, line
            offset += size


def has_lines(path: Path) -> bool:
    """Whether the lines of `read_lines` lie in the file itself, where it says.

    Raises:
        DataError: The file is none, or cannot be read.
    """
    head = head_of(path)
    return head[:2] != GZIP and not _is_array(path, head)


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        DataError: It is none, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise DataError(f"cannot read data file {path}: it is {what}; give an existing file")
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise DataError(
            f"cannot read data file {path}: {error.strerror}; give an existing file"
        ) from None


def require_parquet(path: Path) -> None:
    """Refuse a file that cannot be a whole parquet file.

    Raises:
        DataError: Says what it is instead.
    """
    head = head_of(path)
    if head.startswith(LFS_POINTER):
        raise DataError(pointer_message(path))
    if not head:
        raise DataError(f"{path} is empty; fetch it again")
    with path.open("rb") as file:
        file.seek(-min(len(head), len(PARQUET)), 2)
        tail = file.read()
    if not head.startswith(PARQUET) or tail != PARQUET:
        what = "is cut off" if head.startswith(PARQUET) else "is no parquet file"
        raise DataError(f"{path} {what} (it must begin and end with PAR1); fetch it again")


def pointer_message(path: Path) -> str:
    """Say that a file is not there yet."""
    return f"{path} is a pointer of Git LFS, not the data; run git lfs pull where it lies"


def read_json(text: str | bytes) -> object:
    """Parse JSON; whole numbers of more digits than Python takes (4,300) become their own text.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= sys.get_int_max_str_digits() else digits


def _is_array(path: Path, head: bytes) -> bool:
    is_json = path.name.removesuffix(".gz").endswith(".json")
    return is_json and head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"["


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    is_packed = head_of(path)[:2] == GZIP
    try:
        with path.open("rb") as raw:
            yield cast("BinaryIO", GzipFile(fileobj=raw)) if is_packed else raw
    except (EOFError, zlib.error, OSError) as error:
        if not is_packed:
            raise DataError(f"cannot read data file {path}: {first_line(error)}") from None
        raise DataError(
            f"{path} is a broken gzip file ({first_line(error)}); fetch it again"
        ) from None


def _pass_over(file: BinaryIO) -> int:
    """Read to the end of the line; return how many bytes that was."""
    size = 0
    while rest := file.readline(MOST_ROW_BYTES):
        size += len(rest)
        if rest.endswith(b"\n"):
            break
    return size


def _items(path: Path, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    try:
        items = read_json(file.read())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} begins as a JSON array and is none ({first_line(error)}); mend it, or write "
            "one JSON object a line"
        ) from None
    assert isinstance(items, list)
    for number, item in enumerate(items, start=1):
        yield number, 0, json.dumps(item).encode()
