"""The one way a file or folder of ours is replaced: written aside, forced onto the disk, renamed.

    path --aside--> .path.<random>.tmp --write--> put_in_place --fsync, rename, fsync--> path

At any moment `path` holds the old content or the new. Whatever a killed process left aside is in
nobody's way, and `rewriting` takes its own away when writing fails. Nobody can guess the name, so
nobody can lay a link there beforehand.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def aside(path: Path) -> Path:
    """Return a new place for what is to replace `path`: beside it, so on its disk."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def put_in_place(written: Path, path: Path) -> None:
    """Let a written file or folder take the place of `path`, on the disk when this returns.

    Raises:
        OSError: It cannot; the old content stands, but for a folder that was being taken away.
    """
    if written.is_dir():
        for inner in written.rglob("*"):
            fsync(inner)
    fsync(written)
    if path.is_dir():
        shutil.rmtree(path)
    written.rename(path)
    fsync(path.parent)


@contextmanager
def rewriting(path: Path) -> Iterator[Path]:
    """Yield where to write a file or folder, which is `path` on leaving; a failure leaves the old.

    Raises:
        OSError: It cannot be written.
    """
    side = aside(path)
    try:
        yield side
        put_in_place(side, path)
    finally:
        remove(side)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Remove a folder and those inside it, as far as they hold nothing."""
    inner = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for path in (*inner, folder):
        with suppress(OSError):  # it holds something
            path.rmdir()


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Raises:
        OSError: It cannot be written; the old file stands.
    """
    with rewriting(path) as side:
        side.write_text(text, encoding="utf-8", errors="replace")


def sha256(path: Path) -> str:
    """Return a file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point_nowhere(descriptors: Iterable[int]) -> None:
    """Let descriptors lead to nothing, as when a terminal is gone: writing there fails no more."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
