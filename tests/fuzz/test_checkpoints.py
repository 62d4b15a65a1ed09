"""JSON files of a checkpoint: what is accepted is what was written, all else is damage by name.

Accidents to all files of one: tests/driver/test_checkpoint_corruption.py.
"""

import json
import random
import shutil
from pathlib import Path

import pytest

from coop_rl.driver.checkpoint_check import MANIFEST, read_inputs, read_stored
from coop_rl.driver.checkpoint_store import BEST, CheckpointStore, read_progress
from coop_rl.errors import RunDirectoryError
from tests.driver.tiny_checkpoints import ROLES, progress, save, seal_again
from tests.fuzz.mutation import changed_json
from tests.fuzz.survey import badly_told, survey

FILES = (MANIFEST, "progress.json", "inputs.json", "joint/state.json", "meta/state.json")


def test_manifests_and_what_they_list(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    for step in (3, 6):
        save(CheckpointStore(whole, keep=3, roles=ROLES), step)
    shutil.copytree(whole, folder)
    checkpoint, store = folder / "step-000006", CheckpointStore(folder, keep=3, roles=ROLES)

    def case(rng: random.Random) -> None:
        name = rng.choice(FILES)
        was = (checkpoint / name).read_bytes()
        is_sealed = name != MANIFEST and rng.random() < 0.7
        manifest = (checkpoint / MANIFEST).read_bytes()
        (checkpoint / name).write_bytes(changed_json(rng, was))
        if is_sealed:
            seal_again(checkpoint)
        try:
            require_right(store, checkpoint, is_sealed=is_sealed)
        finally:
            (checkpoint / name).write_bytes(was)
            (checkpoint / MANIFEST).write_bytes(manifest)

    survey("manifest", case)


def require_right(store: CheckpointStore, checkpoint: Path, *, is_sealed: bool) -> None:
    """Nothing but the state after step 6, or the checkpoint before with a line about this one."""
    found = store.find()
    assert found.newest is not None
    if found.newest == checkpoint:
        stored = read_stored(checkpoint)
        assert stored.progress.next_step == 6
        assert stored.progress.version == progress(6).version
        read_inputs(checkpoint)
        if not is_sealed:  # only spaces and the order of names may differ
            whole = checkpoint.parents[1] / "whole" / checkpoint.name
            mine, theirs = (json.loads((c / MANIFEST).read_bytes()) for c in (checkpoint, whole))
            assert mine == theirs
        return
    assert found.newest.name == "step-000003"
    if is_sealed and not found.damaged:  # it says of itself that it is the older one
        return
    (line,) = found.lines()
    assert line.startswith("checkpoint step-000006 is damaged: ")
    assert not badly_told(line)
    with pytest.raises(RunDirectoryError) as refused:
        read_progress(checkpoint, ROLES)
    assert not badly_told(str(refused.value))


def test_best_json(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 3)
    store.mark_best(3, "eval/x/nll", 1.5)
    good = (tmp_path / BEST).read_bytes()

    def case(rng: random.Random) -> None:
        (tmp_path / BEST).write_bytes(changed_json(rng, good))
        best = store.best()
        assert best is None or best.parent == tmp_path
        store.is_better("eval/x/nll", 1.0)
        store.find()
        if rng.random() < 0.02:  # whatever best.json says, a commit succeeds and keeps itself
            assert save(store, rng.randint(3, 9)).is_dir()

    survey("best.json", case)
