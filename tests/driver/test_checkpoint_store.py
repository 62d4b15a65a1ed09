"""A checkpoint is complete or absent, at whatever moment the writer dies."""

import json
import shutil
from pathlib import Path

import pytest

from coop_rl.algorithm.roles import Progress
from coop_rl.driver.checkpoint_store import CheckpointStore, damaged_files, read_progress
from coop_rl.errors import RunDirectoryError
from coop_rl.files import fsync
from coop_rl.types import PolicyVersion


def progress(step: int) -> Progress:
    return Progress(step, PolicyVersion(step, step + 1))


def save(store: CheckpointStore, step: int) -> Path:
    folder = store.begin(step)
    (folder / "joint").mkdir()
    (folder / "joint/tensors.safetensors").write_bytes(bytes([step]) * 1000)
    (folder / "meta.json").write_text(json.dumps({"step": step}))
    return store.commit(folder, progress(step))


def test_newest_are_kept_and_read_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (3, 6, 9):
        save(store, step)
    assert [p.name for p in store.complete()] == ["step-000006", "step-000009"]
    latest = store.latest()
    assert latest is not None
    assert read_progress(latest) == progress(9)


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("survived", range(12))
def test_death_at_any_moment_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Die at each file that is synced, at the rename, and while old checkpoints are removed."""
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 3)
    calls = 0

    def dying(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > survived:
                raise Died
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr("coop_rl.files.fsync", dying(fsync))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))
    try:
        save(store, 6)
        has_died = False
    except Died:
        has_died = True
    monkeypatch.undo()
    assert has_died == (survived < calls)
    latest = CheckpointStore(tmp_path, keep=1).latest()
    assert latest is not None
    assert damaged_files(latest) == []
    assert read_progress(latest) in (progress(3), progress(6))
    # What was left over does not disturb the next save.
    save(CheckpointStore(tmp_path, keep=1), 9)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000009"]


def test_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    older, newer = save(store, 3), save(store, 6)
    (newer / "joint/tensors.safetensors").write_bytes(b"\x06" * 999 + b"\x07")
    assert store.latest() == older
    with pytest.raises(RunDirectoryError, match=r"step-000006/joint/tensors\.safetensors does not"):
        read_progress(newer)
    (older / "meta.json").unlink()
    assert store.latest() is None


def test_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no checkpoint"):
        read_progress(tmp_path)
