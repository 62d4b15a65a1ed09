"""Checkpoints of the form that the roles write, a few hundred bytes each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from coop_rl.algorithm.roles import Progress
from coop_rl.driver.checkpoint_check import MANIFEST
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.files import sha256
from coop_rl.types import PolicyVersion

ROLES = ("joint", "shadow", "meta")


def progress(step: int, method: Mapping[str, Any] | None = None) -> Progress:
    """Where a run stands after `step` steps."""
    return Progress(step, PolicyVersion(step, step), method or {})


def write_roles(folder: Path, step: int, weight: float | None = None) -> None:
    """Write what joint, shadow and meta would."""
    for role in ROLES:
        tensors = {name: np.full(4, weight or step, np.float32) for name in ("master/a", "adapter")}
        counts = {"adapter": step} | ({} if role == "meta" else {"theta": step})
        (folder / role).mkdir()
        save_file(tensors, folder / role / "tensors-00000.safetensors")
        state = {**counts, "tensors": dict.fromkeys(tensors, "tensors-00000.safetensors")}
        (folder / role / "state.json").write_text(json.dumps(state))


def save(
    store: CheckpointStore, step: int, weight: float | None = None, *, is_snapshot: bool = False
) -> Path:
    """Commit a checkpoint."""
    folder = store.begin(step)
    write_roles(folder, step, weight)
    return store.commit(folder, progress(step), is_snapshot=is_snapshot)


def seal_again(checkpoint: Path) -> None:
    """Make the manifest true of what is there, as a wrong writer would."""
    files = [p for p in checkpoint.rglob("*") if p.is_file() and p.name != MANIFEST]
    manifest = {p.relative_to(checkpoint).as_posix(): sha256(p) for p in files}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
