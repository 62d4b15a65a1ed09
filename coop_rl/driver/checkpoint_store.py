"""Checkpoint folders that are complete or absent.

    tmp-000100-<random>/   roles write here
        joint/ shadow/ meta/ ...    safetensors and JSON, one folder per role
        progress.json                next step and version
        manifest.json                SHA-256 of every file; written last, fsynced
    step-000100/           the same folder, renamed: the only commit point

    best.json              step, metric and value of the best checkpoint, which is never pruned

A crash at any moment leaves the last renamed folder as it was; leftovers named tmp-* are ignored
and removed by the next save. The manifest guards against damage, not against an attacker. Called by
`driver.checkpoints` while a run trains, and by `commands.train` and `commands.evaluate` to find a
checkpoint.
"""

import hashlib
import json
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coop_rl.algorithm.roles import Progress
from coop_rl.errors import RunDirectoryError
from coop_rl.files import put_in_place, write_text
from coop_rl.types import PolicyVersion

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
BEST = "best.json"


class CheckpointStore:
    """The checkpoints of one run; the newest `keep` survive."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def begin(self, next_step: int) -> Path:
        """Return a fresh temporary folder for the roles to write into."""
        for leftover in self._folder.glob("tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        path = self._folder / f"tmp-{next_step:06d}-{uuid.uuid4().hex[:8]}"
        path.mkdir(parents=True)
        return path

    def commit(self, temporary: Path, progress: Progress) -> Path:
        """Seal a written folder and give it its final name; returns that."""
        (temporary / PROGRESS).write_text(json.dumps(asdict(progress), indent=2))
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(temporary)): _sha256(p) for p in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2))
        final = self._folder / f"step-{progress.next_step:06d}"
        put_in_place(temporary, final)  # a resumed run may reach the same step again
        self._prune()
        return final

    def is_better(self, metric: str, value: float) -> bool:
        """Whether `value` beats the best one so far; of NLLs the lowest counts."""
        best = self._read_best()
        if best is None or best["metric"] != metric:
            return True
        known = float(best["value"])
        return value < known if metric.endswith("/nll") else value > known

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Name the checkpoint after `step` steps the best, in place of the one before."""
        values = {"step": step, "metric": metric, "value": value}
        write_text(self._folder / BEST, json.dumps(values))
        self._prune()

    def best(self) -> Path | None:
        """Return the best checkpoint; None where none was marked."""
        best = self._read_best()
        return self._folder / f"step-{best['step']:06d}" if best else None

    def _read_best(self) -> dict[str, Any] | None:
        path = self._folder / BEST
        if not path.is_file():
            return None
        values: dict[str, Any] = json.loads(path.read_text())
        return values

    def _prune(self) -> None:
        best = self.best()
        for old in self.complete()[: -self._keep]:
            if old != best:
                shutil.rmtree(old)

    def complete(self) -> list[Path]:
        """Return the committed folders, oldest first."""
        return sorted(p for p in self._folder.glob("step-*") if (p / MANIFEST).is_file())

    def latest(self) -> Path | None:
        """Return the newest folder whose files match their manifest; None where there is none."""
        for path in reversed(self.complete()):
            if not damaged_files(path):
                return path
        return None


def damaged_files(checkpoint: Path) -> list[str]:
    """Return the files that are missing or differ from the manifest."""
    manifest: dict[str, str] = json.loads((checkpoint / MANIFEST).read_text())
    return [
        name
        for name, digest in manifest.items()
        if not (checkpoint / name).is_file() or _sha256(checkpoint / name) != digest
    ]


def read_progress(checkpoint: Path) -> Progress:
    """Return where the run that wrote a checkpoint stood.

    Raises:
        RunDirectoryError: The folder is no checkpoint, or a file of it is damaged.
    """
    if not (checkpoint / MANIFEST).is_file():
        raise RunDirectoryError(
            f"{checkpoint} is no checkpoint (no {MANIFEST}); give --resume a step-* folder"
        )
    if damaged := damaged_files(checkpoint):
        raise RunDirectoryError(
            f"{checkpoint / damaged[0]} does not match its checksum; resume from another checkpoint"
        )
    return stored_progress(checkpoint)


def stored_progress(checkpoint: Path) -> Progress:
    """Return where the run that wrote a checkpoint stood, without hashing its files again.

    Enough for a checkpoint that this process wrote or has verified: hashing takes long.
    """
    values = json.loads((checkpoint / PROGRESS).read_text())
    return Progress(
        values["next_step"],
        PolicyVersion(**values["version"]),
        values.get("method", {}),
        values.get("rollouts", {}),
    )


def digest(checkpoint: Path) -> str:
    """Return a checksum of a committed folder's content, which its manifest lists."""
    return _sha256(checkpoint / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
