"""Checkpoint folders that are complete or absent, and the line that each belongs to.

    tmp-000100-<random>/   roles write here
        joint/ joint-rank-1/ ...     safetensors and JSON, one folder for each rank of a role
        inputs.json                  what the run computes from: its config, digests of its files
        progress.json                next step and version, number of the commit, its ancestors
        manifest.json                SHA-256 of every file; written last, fsynced
    step-000100/           the same folder, renamed: the only commit point

    best.json              step, metric and value of the best checkpoint, which is never pruned

A crash at any moment leaves the last renamed folder as it was; leftovers named tmp-* are ignored
and removed by the next save. The newest checkpoint is the one committed last: who goes back to
step 50 and trains on begins a new line, and what was abandoned stays until it is overwritten. Only
ancestors of what was just committed are pruned. A snapshot is a checkpoint like the others, but
for how long it is kept. Called by `driver.checkpoints` while a run trains,
and by `commands.resume` and `commands.evaluate` to find a checkpoint.
"""

import errno
import json
import math
import shutil
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from coop_rl.algorithm.roles import Progress
from coop_rl.driver.checkpoint_check import (
    INPUTS,
    MANIFEST,
    PROGRESS,
    STEP_FOLDER,
    Inputs,
    damage,
    read_manifest,
    read_stored,
)
from coop_rl.errors import RunDirectoryError
from coop_rl.files import put_in_place, sha256, write_text

BEST = "best.json"
KEPT_SNAPSHOTS = 1
NO_DIGESTS: Mapping[str, str] = MappingProxyType({})
ELSEWHERE = "node and is not here; give a run.dir that all nodes share"
UNKNOWN = math.inf
"""Commit number of a folder that does not tell it: looked at first, so that its damage is told."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search for the newest whole checkpoint found."""

    newest: Path | None
    damaged: tuple[tuple[Path, str], ...]
    """What is newer, or all there is, and what is wrong with it."""

    def lines(self) -> list[str]:
        """Return a line for each damaged one."""
        return [f"checkpoint {path.name} is damaged: {why}" for path, why in self.damaged]


class CheckpointStore:
    """The checkpoints of one run; the newest `keep` of its line survive, and one snapshot."""

    def __init__(self, folder: Path, keep: int, roles: Collection[str] = ()) -> None:
        """Look after `folder`, whose checkpoints hold at least a folder for each of `roles`."""
        self._folder = folder
        self._keep = keep
        self._roles = roles
        self._inputs = Inputs()
        self._newest: Path | None = None

    def go_on_from(self, checkpoint: Path | None, inputs: Inputs) -> None:
        """Let what is committed from now on be of the line of a whole checkpoint.

        Args:
            checkpoint: Where the run goes on; None: it begins anew.
            inputs: What it computes from.
        """
        self._newest, self._inputs = checkpoint, inputs

    def begin(self, next_step: int) -> Path:
        """Return a fresh temporary folder for the roles to write into."""
        self.clear()
        path = self._folder / f"tmp-{next_step:06d}-{uuid.uuid4().hex[:8]}"
        path.mkdir(parents=True)
        return path

    def clear(self) -> None:
        """Remove what saves that failed, or died, have left."""
        for leftover in self._folder.glob("tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def commit(
        self,
        temporary: Path,
        progress: Progress,
        *,
        is_snapshot: bool = False,
        digests: Mapping[str, str] = NO_DIGESTS,
    ) -> Path:
        """Seal a written folder and give it its final name; returns that.

        Args:
            temporary: What `begin` returned.
            progress: Where the run stands.
            is_snapshot: Whether it goes as soon as a newer snapshot is there.
            digests: SHA-256 of files inside that their writers have taken already.

        Raises:
            OSError: It cannot be written; all that was committed stands.
        """
        final = self._folder / f"step-{progress.next_step:06d}"
        number = 1 + max((n for n in map(_commit_number, self.all()) if n < UNKNOWN), default=0)
        stands = {"commit": number, "line": self._line_without(final)}
        stands |= {"is_snapshot": True} if is_snapshot else {}
        (temporary / INPUTS).write_text(json.dumps(asdict(self._inputs), indent=1))
        (temporary / PROGRESS).write_text(json.dumps({**asdict(progress), **stands}, indent=2))
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        names = [path.relative_to(temporary).as_posix() for path in files]
        if missing := sorted(digests.keys() - set(names)):
            raise FileNotFoundError(
                errno.ENOENT, f"{missing[0]} was written on another {ELSEWHERE}"
            )
        known = zip(names, files, strict=True)
        manifest = {name: digests.get(name) or sha256(path) for name, path in known}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2))
        put_in_place(temporary, final)  # a resumed run may reach the same step again
        self._newest = final
        self._prune()
        return final

    def is_better(self, metric: str, value: float) -> bool:
        """Whether `value` beats the best one so far; of NLLs the lowest counts."""
        best = self._read_best()
        if not best or best["metric"] != metric:
            return True
        known = float(best["value"])
        return value < known if metric.endswith("/nll") else value > known

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Name the checkpoint after `step` steps the best, in place of the one before."""
        values = {"step": step, "metric": metric, "value": value}
        write_text(self._folder / BEST, json.dumps(values))
        self._prune()

    def best(self) -> Path | None:
        """Return the best checkpoint; None where none was marked, or it can't be told which."""
        best = self._read_best()
        return self._folder / f"step-{best['step']:06d}" if best else None

    def all(self) -> list[Path]:
        """Return the folders that were committed, whole or not, in the order of their commits."""
        names = (p for p in self._folder.glob("step-*") if STEP_FOLDER.fullmatch(p.name))
        return sorted(names, key=lambda path: (_commit_number(path), path.name))

    def owns(self, checkpoint: Path) -> bool:
        """Whether a checkpoint is one of these, and no snapshot."""
        is_inside = checkpoint.resolve().parent == self._folder.resolve()
        return is_inside and not _is_snapshot(checkpoint)

    def find(self) -> Found:
        """Look for the checkpoint that was committed last and is whole."""
        damaged: list[tuple[Path, str]] = []
        for path in reversed(self.all()):
            why = damage(path, self._roles)
            if why is None:
                return Found(path, tuple(damaged))
            damaged.append((path, why))
        return Found(None, tuple(damaged))

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint; None where there is none."""
        return self.find().newest

    def num_bytes(self) -> int:
        """Return what the last checkpoint of the line takes on the disk; 0 where there is none."""
        files = self._newest.rglob("*") if self._newest else ()
        return sum(path.stat().st_size for path in files if path.is_file())

    def free_bytes(self) -> int:
        """Return what is free on the disk of the checkpoints."""
        return shutil.disk_usage(self._folder).free

    def _read_best(self) -> dict[str, Any] | None:
        """Return what best.json holds; None where there is none, {} where it is damaged."""
        path = self._folder / BEST
        if not path.is_file():
            return None
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
            is_known = type(values["step"]) is int and isinstance(values["metric"], str)
            return values if is_known and math.isfinite(values["value"]) else {}
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return {}

    def _line(self) -> list[tuple[str, str]]:
        """Return (name, digest) of the newest checkpoint of the line and of its ancestors."""
        if self._newest is None:
            return []
        return [(self._newest.name, digest(self._newest)), *read_stored(self._newest).line]

    def _line_without(self, replaced: Path) -> list[tuple[str, str]]:
        """Return the line as it is here, without a folder that is about to be replaced."""
        return [a for a in self._line() if a[0] != replaced.name and self._is_here(*a)]

    def _is_here(self, name: str, sealed: str) -> bool:
        """Whether an ancestor is in the folder as it was, and not another line's of that step."""
        manifest = self._folder / name / MANIFEST
        return manifest.is_file() and sha256(manifest) == sealed

    def _prune(self) -> None:
        best = self._read_best()
        if best == {}:
            return  # nobody knows which one must be kept
        line = [self._folder / name for name, sealed in self._line() if self._is_here(name, sealed)]
        snapshots = [path for path in line if _is_snapshot(path)]
        lasting = [path for path in line if path not in snapshots]
        for old in lasting[self._keep :] + snapshots[KEPT_SNAPSHOTS:]:
            if old != self.best():
                shutil.rmtree(old, ignore_errors=True)


def read_progress(checkpoint: Path, roles: Collection[str] = ()) -> Progress:
    """Return where the run that wrote a checkpoint stood.

    Raises:
        RunDirectoryError: The folder is no checkpoint, or it is damaged.
    """
    if not (checkpoint / MANIFEST).is_file():
        raise RunDirectoryError(
            f"{checkpoint} is no checkpoint (no {MANIFEST}); give a step-* folder of a run"
        )
    if why := damage(checkpoint, roles):
        raise RunDirectoryError(f"{checkpoint} is damaged: {why}; give another checkpoint")
    return stored_progress(checkpoint)


def stored_progress(checkpoint: Path) -> Progress:
    """Return where the run that wrote a checkpoint stood, without hashing its files again.

    Enough for a checkpoint that this process wrote or has verified: hashing takes long.
    """
    return read_stored(checkpoint).progress


def digest(checkpoint: Path) -> str:
    """Return a checksum of a committed folder's content, which its manifest lists."""
    return sha256(checkpoint / MANIFEST)


def _is_snapshot(checkpoint: Path) -> bool:
    try:
        return read_stored(checkpoint).is_snapshot
    except (OSError, ValueError, RecursionError):
        return False


def _commit_number(checkpoint: Path) -> float:
    """Return it where its file is what was sealed: a flipped bit must not make it an older one."""
    try:
        number = read_stored(checkpoint).commit
        sealed = read_manifest(checkpoint / MANIFEST).get(PROGRESS)
        return number if sealed == sha256(checkpoint / PROGRESS) else UNKNOWN
    except (OSError, ValueError, RecursionError):
        return UNKNOWN
