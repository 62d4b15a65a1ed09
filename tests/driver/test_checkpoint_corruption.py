"""Whatever happens to a checkpoint: it is passed over by name, never resumed from, no traceback."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from coop_rl.driver.checkpoint_check import MANIFEST, PROGRESS, damage
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress
from coop_rl.errors import RunDirectoryError
from coop_rl.files import sha256
from tests.driver.tiny_checkpoints import ROLES, save, seal_again

NUM_CORRUPTIONS = 300
JSON = (b"", b"{}", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"{", b"[" * 5000, b"\0" * 40)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def any_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(files(folder))


def flip(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    os.truncate(path, rng.randrange(path.stat().st_size))


def grow(folder: Path, rng: random.Random) -> None:
    with any_file(folder, rng).open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 9)))


def overwrite(folder: Path, rng: random.Random) -> None:
    any_file(folder, rng).write_bytes(rng.choice(JSON))


def remove(folder: Path, rng: random.Random) -> None:
    any_file(folder, rng).unlink()


def remove_role(folder: Path, rng: random.Random) -> None:
    shutil.rmtree(folder / rng.choice(ROLES))


def remove_role_from_the_manifest_too(folder: Path, rng: random.Random) -> None:
    remove_role(folder, rng)
    seal_again(folder)


def remove_file_from_the_manifest_too(folder: Path, rng: random.Random) -> None:
    rng.choice([p for p in files(folder) if p.name not in (MANIFEST, "inputs.json")]).unlink()
    seal_again(folder)


def drop_entry(folder: Path, rng: random.Random) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[rng.choice(sorted(manifest))]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def point_outside(folder: Path, rng: random.Random) -> None:
    outside = folder.parent / "outside"
    outside.write_text("x")
    manifest = json.loads((folder / MANIFEST).read_text())
    name = rng.choice(["../outside", str(outside), "joint/../../outside", "./progress.json"])
    manifest[name] = sha256(outside)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def link(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    path.rename(folder.parent / "moved")
    path.symlink_to(folder.parent / "moved")


def link_role(folder: Path, rng: random.Random) -> None:
    role = folder / rng.choice(ROLES)
    shutil.rmtree(folder.parent / "elsewhere", ignore_errors=True)
    role.rename(folder.parent / "elsewhere")
    role.symlink_to(folder.parent / "elsewhere")


def pipe(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    path.unlink()
    os.mkfifo(path)


def swap(folder: Path, rng: random.Random) -> None:
    one, two = rng.sample([folder / role / "state.json" for role in ROLES], 2)
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b + b" ")
    two.write_bytes(a + b" ")


def swap_files(folder: Path, rng: random.Random) -> None:
    one, two = rng.sample([path for path in files(folder) if path.name != MANIFEST], 2)
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b + (b" " if a == b else b""))
    two.write_bytes(a)


def rename(folder: Path, rng: random.Random) -> None:
    path = any_file(folder, rng)
    path.rename(path.with_name(rng.choice([f"{path.name}.bak", "x", f".{path.name}"])))


def another_steps_manifest(folder: Path, rng: random.Random) -> None:
    names = rng.choice([[MANIFEST], [MANIFEST, PROGRESS], [MANIFEST, PROGRESS, "inputs.json"]])
    for name in names:
        shutil.copy(folder.parent / "step-000003" / name, folder / name)


def another_steps_content(folder: Path, rng: random.Random) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-000003", folder)


def another_steps_role(folder: Path, rng: random.Random) -> None:
    role = rng.choice(ROLES)
    shutil.rmtree(folder / role)
    shutil.copytree(folder.parent / "step-000003" / role, folder / role)
    seal_again(folder)


def wrong_progress(folder: Path, rng: random.Random) -> None:
    values = json.loads((folder / PROGRESS).read_text())
    wrong: dict[str, list] = {
        "next_step": [-5, 7, 6.0, "6", None, True, 10**30],
        "version": [
            {},
            None,
            {"theta": 6},
            {"theta": 5, "adapter": 6},
            {"theta": "6", "adapter": 6},
        ],
        "method": [[], None, "x"],
        "rollouts": [7, "x"],
        "line": [{}, [["step-000003"]], [["../x", "0"]], [3]],
        "commit": [-1, "2", 1.5],
    }
    name = rng.choice(sorted(wrong))
    values[name] = rng.choice(wrong[name])
    (folder / PROGRESS).write_text(json.dumps(values))
    seal_again(folder)


def wrong_state(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(ROLES) / "state.json"
    values = json.loads(path.read_text())
    values |= rng.choice(
        [
            {"adapter": 5},
            {"tensors": []},
            {"tensors": {}},
            {"tensors": {"master/a": "../x"}},
            {"tensors": {"master/a": 3, "adapter": "tensors-00000.safetensors"}},
            {"tensors": {**values["tensors"], "master/b": "tensors-00001.safetensors"}},
        ]
    )
    path.write_text(json.dumps(values))
    seal_again(folder)


def not_finite(folder: Path, rng: random.Random) -> None:
    weights = np.ones(4, np.float32)
    weights[rng.randrange(4)] = rng.choice([np.nan, np.inf, -np.inf])
    path = folder / rng.choice(ROLES) / "tensors-00000.safetensors"
    save_file({"master/a": weights, "adapter": np.ones(4, np.float32)}, path)
    seal_again(folder)


def stray(folder: Path, rng: random.Random) -> None:
    (folder / rng.choice(["notes.txt", "joint/tensors-00001.safetensors"])).write_bytes(b"x")


def no_folder(folder: Path, rng: random.Random) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


CORRUPTIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    flip, truncate, grow, overwrite, remove, remove_role, remove_role_from_the_manifest_too,
    remove_file_from_the_manifest_too, drop_entry, point_outside, link, link_role, pipe, swap,
    swap_files, rename, another_steps_manifest, another_steps_content, another_steps_role,
    wrong_progress, wrong_state, not_finite, stray, no_folder,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    store = CheckpointStore(folder, keep=3, roles=ROLES)
    for step in (3, 6):
        save(store, step)
    return folder


def test_no_corruption_is_resumed_from(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(20_261_128)
    store = CheckpointStore(tmp_path / "run", keep=3, roles=ROLES)
    for number in range(NUM_CORRUPTIONS):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "run")
        corrupt = CORRUPTIONS[number % len(CORRUPTIONS)]
        corrupt(tmp_path / "run/step-000006", rng)
        what = f"{corrupt.__name__}, number {number}"
        found = store.find()
        assert found.newest == tmp_path / "run/step-000003", what
        assert [path.name for path, _ in found.damaged] == ["step-000006"], what
        assert all("\n" not in why and why for _, why in found.damaged), what
        with pytest.raises(RunDirectoryError, match=r"is damaged: |is no checkpoint"):
            read_progress(tmp_path / "run/step-000006", ROLES)


def test_both_corrupted_leave_nothing_to_resume_from(whole: Path, tmp_path: Path) -> None:
    rng = random.Random(7)
    store = CheckpointStore(tmp_path / "run", keep=3, roles=ROLES)
    for number in range(2 * len(CORRUPTIONS)):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(whole, tmp_path / "run")
        CORRUPTIONS[number % len(CORRUPTIONS)](tmp_path / "run/step-000006", rng)
        overwrite(tmp_path / "run/step-000003", rng)
        found = store.find()
        assert found.newest is None
        assert len(found.damaged) == 2


def test_a_commit_number_that_a_bit_made_older_hides_nothing(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run/step-000006" / PROGRESS
    path.write_text(path.read_text().replace('"commit": 2', '"commit": 0'))
    found = CheckpointStore(tmp_path / "run", keep=3, roles=ROLES).find()
    assert found.lines() == [
        "checkpoint step-000006 is damaged: progress.json does not match its checksum"
    ]


def test_whole_ones_are_whole_and_another_name_is_none(whole: Path, tmp_path: Path) -> None:
    assert damage(whole / "step-000006", ROLES) is None
    for name in ("step-000007", "step-6", "best"):
        shutil.copytree(whole / "step-000006", tmp_path / name)
        assert damage(tmp_path / name, ROLES) is not None
