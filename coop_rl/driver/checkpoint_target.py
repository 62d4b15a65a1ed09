"""Copies of a run's checkpoints elsewhere: in another folder, in a bucket.

    checkpoints/step-000100/ --files, manifest.json last--> <target>/<run>/step-000100/
    another machine, no checkpoints --manifest.json, its files, verified--> checkpoints/step-000100/

A copy without its manifest is none. Kept there is what is kept here, snapshots left out. Files come
and go by the names in a manifest, none of which leads out of its folder. What is copied when says
`driver.checkpoint_mirror`; where a run begins, `commands.resume`. The only door to fsspec.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from coop_rl.driver.checkpoint_check import (
    MANIFEST,
    PROGRESS,
    STEP_FOLDER,
    Stored,
    damage,
    read_manifest,
    read_stored,
    stored_of,
)
from coop_rl.driver.checkpoint_store import BEST, Found
from coop_rl.errors import ConfigError, RunDirectoryError, first_line
from coop_rl.files import put_in_place, write_text

PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""What each scheme needs beside fsspec; the extra of ours is called like the scheme."""


class TargetError(Exception):
    """What a target's own client says, in one line."""


class CheckpointTarget:
    """A folder of copies, one for each checkpoint."""

    def __init__(self, filesystem: Any, folder: str, shown: str) -> None:
        """Use `folder` of an fsspec `filesystem`, made with the first copy, called `shown`."""
        self._files = filesystem
        self._folder = folder.rstrip("/")
        self._shown = shown

    @classmethod
    def open(cls, target: str, run: str) -> Self:
        """Open the folder of a run.

        Args:
            target: `checkpoint.target`.
            run: The run's name.

        Raises:
            ConfigError: A package for it is not installed, or its client refuses what it is given.
        """
        from fsspec.core import url_to_fs

        scheme, separator, _ = target.partition("://")
        try:
            place = target if separator else str(Path(target).expanduser().absolute())
            shown = f"{place.rstrip('/')}/{run}"
            files, folder = url_to_fs(shown, use_listings_cache=False)
        except ImportError:
            raise ConfigError(
                f"checkpoint.target {target} needs the package {PACKAGES[scheme]}, which is not "
                f'installed; pip install "coop-rl[{scheme}]", or give a path'
            ) from None
        except Exception as error:  # of whatever client it is
            raise ConfigError(
                f"checkpoint.target {target} cannot be used: {first_line(error)}; give a path, or "
                "set up what its client reads its keys from"
            ) from None
        return cls(files, folder, shown)

    def __str__(self) -> str:
        return self._shown

    def names(self) -> list[str]:
        """Return the checkpoints that are there, whole or not, in the order of their commits.

        Raises:
            TargetError: It cannot be read.
        """
        return [name for name, _ in sorted(self._stored().items(), key=lambda item: item[1].commit)]

    def copy(self, checkpoint: Path) -> None:
        """Copy a committed checkpoint, unless it is there.

        Raises:
            TargetError: It cannot be written, or was pruned meanwhile.
        """
        place = f"{self._folder}/{checkpoint.name}"
        with _in_one_line():
            sealed = (checkpoint / MANIFEST).read_bytes()
            if self._read(f"{place}/{MANIFEST}") == sealed:
                return
            self._remove(place)  # of another line, or the rest of a copy that was broken off
            for name in read_manifest(checkpoint / MANIFEST):
                self._files.makedirs(f"{place}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(checkpoint / name), f"{place}/{name}")
            if (checkpoint / MANIFEST).read_bytes() == sealed:
                self._files.pipe_file(f"{place}/{MANIFEST}", sealed)

    def copy_best(self, checkpoints: Path) -> None:
        """Copy what says which checkpoint is the best.

        Raises:
            TargetError: It cannot be written.
        """
        with _in_one_line():
            here = (checkpoints / BEST).read_bytes() if (checkpoints / BEST).is_file() else None
            if here and here != self._read(f"{self._folder}/{BEST}"):
                self._files.pipe_file(f"{self._folder}/{BEST}", here)

    def prune(self, newest: Path, keep: int, best: Path | None) -> None:
        """Remove copies of ancestors of `newest` but for the last `keep`, and what is no copy.

        Raises:
            TargetError: It cannot be read or written.
        """
        with _in_one_line():
            found = self._stored()
            line, sought = {newest.name}, [read_stored(newest)]
            while sought:
                for name, sealed in sought.pop().line:
                    manifest = self._read(f"{self._folder}/{name}/{MANIFEST}") or b""
                    is_same = hashlib.sha256(manifest).hexdigest() == sealed
                    if is_same and name in found and name not in line:
                        line.add(name)
                        sought.append(found[name])
            ordered = sorted(line & found.keys(), key=lambda name: -found[name].commit)
            for name in ordered[keep:]:
                if best is None or name != best.name:
                    self._remove(f"{self._folder}/{name}")
            for name in self._folders() - found.keys():
                self._remove(f"{self._folder}/{name}")

    def fetch_newest(self, checkpoints: Path, roles: Collection[str]) -> Found:
        """Bring the newest whole copy here, and what says which is the best.

        Args:
            checkpoints: The folder of step-* folders.
            roles: Folders a checkpoint must hold at least.

        Raises:
            RunDirectoryError: The target cannot be read, or nothing be written here.
        """
        damaged: list[tuple[Path, str]] = []
        side = checkpoints / f"tmp-{uuid.uuid4().hex[:8]}"
        try:
            with _in_one_line():
                for name in reversed(self.names()):
                    self._fetch(name, side)
                    if (why := damage(side / name, roles)) is None:
                        put_in_place(side / name, checkpoints / name)
                        self._fetch_best(checkpoints)
                        return Found(checkpoints / name, tuple(damaged))
                    damaged.append((Path(name), f"{why} (in {self})"))
        except TargetError as error:
            raise RunDirectoryError(
                f"no checkpoint can be fetched from {self}: {error}; try again, or begin anew with "
                "another checkpoint.target, or null"
            ) from None
        finally:
            shutil.rmtree(side, ignore_errors=True)
        return Found(None, tuple(damaged))

    def _fetch(self, name: str, side: Path) -> None:
        """Bring what a manifest names; `damage` then tells what is missing, or too much."""
        place, folder = f"{self._folder}/{name}", side / name
        folder.mkdir(parents=True)
        self._files.get_file(f"{place}/{MANIFEST}", str(folder / MANIFEST))
        with suppress(FileNotFoundError, ValueError, RecursionError):
            for file in read_manifest(folder / MANIFEST):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{place}/{file}", str(folder / file))

    def _fetch_best(self, checkpoints: Path) -> None:
        best = self._read(f"{self._folder}/{BEST}")
        if best and not (checkpoints / BEST).exists():
            write_text(checkpoints / BEST, best.decode(errors="replace"))

    def _folders(self) -> set[str]:
        """Return the names of what looks like a checkpoint."""
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._folder, detail=False)
        except FileNotFoundError:
            return set()
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
        return {name for name in names if STEP_FOLDER.fullmatch(name)}

    def _stored(self) -> dict[str, Stored]:
        """Return what each copy says of itself, of those that have a manifest."""
        found = {}
        with _in_one_line():
            for name in self._folders():
                if self._read(f"{self._folder}/{name}/{MANIFEST}") is None:
                    continue
                text = self._read(f"{self._folder}/{name}/{PROGRESS}") or b""
                with suppress(ValueError, RecursionError):
                    found[name] = stored_of(json.loads(text))
        return found

    def _read(self, path: str) -> bytes | None:
        """Return a small file's content; None: it is not there."""
        try:
            content: bytes = self._files.cat_file(path)
        except FileNotFoundError:
            return None
        return content

    def _remove(self, place: str) -> None:
        """Remove a copy; without its manifest, which goes first, it is none."""
        for path in (f"{place}/{MANIFEST}", place):
            with suppress(FileNotFoundError):
                self._files.rm(path, recursive=path == place)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Let whatever a client raises be a line.

    Raises:
        TargetError: With that line.
    """
    try:
        yield
    except TargetError:
        raise
    except Exception as error:  # of whatever client it is
        raise TargetError(first_line(error) or type(error).__name__) from None
