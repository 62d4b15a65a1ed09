"""A file or folder holds the old content or the new, and nothing is left beside it."""

import os
from pathlib import Path

import pytest

from coop_rl import files


def test_a_text_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for text in ("old", "new"):
        files.write_text(path, text)
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_with_all_that_was_in_it(tmp_path: Path) -> None:
    path = tmp_path / "joint"
    for name in ("old", "new"):
        with files.rewriting(path) as side:
            (side / "inner").mkdir(parents=True)
            (side / "inner" / name).write_text(name)
    assert [p.name for p in path.rglob("*")] == ["inner", "new"]
    assert list(tmp_path.iterdir()) == [path]


def test_nobody_can_guess_where_a_file_is_written(tmp_path: Path) -> None:
    names = {files.aside(tmp_path / "run.json").name for _ in range(9)}
    assert len(names) == 9
    assert not any(str(os.getpid()) in name.split(".") for name in names)


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_failure_leaves_the_old_and_nothing_else(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "kept"
    files.write_text(path, "old")

    def fail() -> None:
        with files.rewriting(path) as side:
            if is_folder:
                side.mkdir()
            (side / "part" if is_folder else side).write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
