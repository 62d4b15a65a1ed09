"""A checkpoint is complete or absent, of one line, and pruned only where a newer one is whole."""

import json
import shutil
from pathlib import Path

import pytest

from coop_rl.driver.checkpoint_check import Inputs, damage
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress
from coop_rl.errors import RunDirectoryError
from coop_rl.files import fsync
from tests.driver.tiny_checkpoints import ROLES, progress, save, seal_again, write_roles


def names(store: CheckpointStore) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in store.all()]


def resumed(folder: Path, checkpoint: Path | None, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(folder, keep, ROLES)
    store.go_on_from(checkpoint, Inputs())
    return store


def test_one_snapshot_is_kept_beside_the_checkpoints(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 9):
        save(store, step, is_snapshot=step % 3 != 0)
    assert names(store) == [3, 6, 8]
    assert store.latest() == tmp_path / "step-000008"
    save(store, 9)
    assert names(store) == [6, 8, 9]


def test_newest_are_kept_and_read_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (3, 6, 9):
        save(store, step)
    assert names(store) == [6, 9]
    latest = store.latest()
    assert latest is not None
    assert read_progress(latest) == progress(9)


class Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("survived", range(0, 26, 3))
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
    again = CheckpointStore(tmp_path, keep=1)
    latest = again.latest()
    assert latest is not None
    assert damage(latest, ROLES) is None
    assert read_progress(latest) in (progress(3), progress(6))
    # What was left over does not disturb the next save.
    again.go_on_from(latest, Inputs())
    save(again, 9)
    assert not list(tmp_path.glob("tmp-*"))
    assert again.latest() == tmp_path / "step-000009"


def test_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3, roles=ROLES)
    older, newer = save(store, 3), save(store, 6)
    (newer / "joint/tensors-00000.safetensors").write_bytes(b"\x06" * 999)
    found = store.find()
    assert found.newest == older
    (line,) = found.lines()
    assert line.startswith(
        "checkpoint step-000006 is damaged: joint/tensors-00000.safetensors does"
    )
    with pytest.raises(RunDirectoryError, match=r"step-000006 is damaged: joint/tensors-00000"):
        read_progress(newer)
    (older / "meta/state.json").unlink()
    assert [path.name for path, _ in store.find().damaged] == ["step-000006", "step-000003"]
    assert store.latest() is None


def test_a_new_checkpoint_survives_damaged_ones_of_later_steps(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in (3, 6):
        save(CheckpointStore(tmp_path, keep=9), step)
    for step in (50, 75):
        (save(CheckpointStore(tmp_path, keep=9), step) / "manifest.json").write_bytes(b"")
    whole = CheckpointStore(tmp_path, keep=1, roles=ROLES).latest()
    assert whole == tmp_path / "step-000006"
    store = resumed(tmp_path, whole, keep=1)
    save(store, 9)
    assert {9, 50, 75} <= set(names(store))
    assert store.latest() == tmp_path / "step-000009"


def test_auto_follows_the_line_that_was_written_last(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, roles=ROLES)
    for step in (25, 50, 75):
        save(store, step)
    again = resumed(tmp_path, tmp_path / "step-000050")
    save(again, 60)
    # 75 is of the line that was left: it is neither the newest, nor does it count in what is kept.
    assert again.latest() == tmp_path / "step-000060"
    assert set(names(again)) == {50, 60, 75}
    save(again, 70)
    assert set(names(again)) == {60, 70, 75}
    save(again, 75, weight=0.5)
    assert names(again) == [70, 75]
    assert again.latest() == tmp_path / "step-000075"


def test_a_step_that_is_saved_again_is_not_its_own_ancestor(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, roles=ROLES)
    save(store, 3)
    again = resumed(tmp_path, save(store, 6), keep=1)
    save(again, 6, weight=2.0)
    save(again, 9)
    assert names(again) == [9]


def test_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no checkpoint"):
        read_progress(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"{}", b"{", b"\xff", b'{"step": 3}', b"[" * 9999]
)
def test_a_damaged_best_json_breaks_no_commit_and_lets_nothing_be_pruned(
    tmp_path: Path, content: bytes
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 3)
    store.mark_best(3, "eval/sums/pass@1", 0.5)
    (tmp_path / "best.json").write_bytes(content)
    for step in (6, 9):
        save(store, step)
    assert names(store) == [3, 6, 9]
    assert store.best() is None
    assert store.is_better("eval/sums/pass@1", 0.1)
    store.mark_best(9, "eval/sums/pass@1", 0.1)
    assert names(store) == [9]


def test_checkpoints_of_before_lines_were_kept_go_on(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step in (3, 6):
        old = save(store, step)
        values = json.loads((old / "progress.json").read_text())
        (old / "progress.json").write_text(
            json.dumps({k: v for k, v in values.items() if k not in ("line", "commit")})
        )
        (old / "inputs.json").unlink()
        seal_again(old)
    assert store.latest() == tmp_path / "step-000006"
    save(store, 9)
    assert names(store) == [9]


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    write_roles(store.begin(3), 3)
    store.clear()
    assert not list(tmp_path.iterdir())
