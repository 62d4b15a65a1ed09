"""A role's state is written whole and finite, or not at all, and nobody is kept waiting."""

import json
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coop_rl.driver.checkpoint_check import DamageError, _check_ranks
from coop_rl.errors import DivergedError, RunError
from coop_rl.files import sha256
from coop_rl.learner import state_io
from coop_rl.learner.state_io import StateReader, StateWriter
from coop_rl.types import PolicyVersion


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files may hold 2,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, previous)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    writer = StateWriter(tmp_path / "joint")
    writer.add("a", torch.arange(3.0))
    writer.finish({"theta": 1})
    reader = StateReader(tmp_path / "joint")
    assert (reader.values["theta"], dict(reader.read(["a"]))["a"].tolist()) == (1, [0.0, 1.0, 2.0])
    assert [path.name for path in tmp_path.iterdir()] == ["joint"]


def write_parts(folder: Path, cuts: tuple[int, ...], whole: torch.Tensor) -> None:
    """Write `w`, cut in the middle of rows, and a small tensor that the last rank has whole."""
    flat, ends = whole.flatten(), (*cuts, whole.numel())
    for rank, (start, end) in enumerate(zip((0, *cuts), ends, strict=True)):
        writer = StateWriter(folder, rank, len(ends))
        if start < end:
            writer.add("w", flat[start:end], start, whole.shape)
        if rank == len(ends) - 1:
            writer.add("small", torch.ones(2), 0, (2,))
        writer.finish({"theta": 1, "adapter": 1})


@pytest.mark.parametrize("cuts", [(), (5,), (3, 3, 8)], ids=str)
def test_parts_of_ranks_are_read_whole_and_in_any_other_cut(
    tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    whole = torch.arange(12.0).view(3, 4)
    write_parts(tmp_path / "joint", cuts, whole)
    reader = StateReader(tmp_path / "joint")
    assert sorted(reader.names) == ["small", "w"]
    assert torch.equal(dict(reader.read(["w", "absent", "small"]))["w"], whole)
    for start in range(12):
        for count in range(1, 13 - start):
            found = reader.read_values("w", (3, 4), start, count)
            assert found.tolist() == whole.flatten()[start : start + count].tolist()
    with pytest.raises(RunError, match=r"holds w of shape \(3, 4\) where shape \(3, 5\)"):
        reader.read_values("w", (3, 5), 0, 1)
    with pytest.raises(RunError, match="was written for another model"):
        reader.read_values("absent", (2,), 0, 2)
    _check_ranks(tmp_path / "joint", reader.values, PolicyVersion(1, 1))


def drop_rank(joint: Path) -> None:
    shutil.rmtree(joint.with_name("joint-rank-1"))


def shift(joint: Path) -> None:
    path = joint.with_name("joint-rank-1") / "state.json"
    path.write_text(path.read_text().replace("5,", "6,"))


def older_rank(joint: Path) -> None:
    path = joint.with_name("joint-rank-1") / "state.json"
    path.write_text(path.read_text().replace('"theta": 1', '"theta": 2'))


def forget(joint: Path) -> None:
    path = joint / "state.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "others": []}))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (drop_rank, "joint-rank-1/state.json is missing"),
        (shift, "joint: w has a gap at 5"),
        (older_rank, "joint-rank-1/state.json is not of the form it is written in"),
        (forget, "joint: w ends at 5"),
    ],
)
def test_a_rank_that_is_missing_or_cut_otherwise_is_damage(tmp_path: Path, harm, why: str) -> None:
    write_parts(tmp_path / "joint", (5,), torch.arange(12.0).view(3, 4))
    harm(tmp_path / "joint")
    values = json.loads((tmp_path / "joint/state.json").read_text())
    with pytest.raises(DamageError, match=f"^{why}$"):
        _check_ranks(tmp_path / "joint", values, PolicyVersion(1, 1))


def test_what_is_to_be_written_later_is_as_it_was_when_it_was_taken_in(tmp_path: Path) -> None:
    writer, live = StateWriter(tmp_path / "joint", writes_later=True), torch.ones(4)
    writer.add("w", live)
    live.zero_()
    assert not list(tmp_path.iterdir())
    digests = writer.finish({"theta": 1})
    assert dict(StateReader(tmp_path / "joint").read(["w"]))["w"].tolist() == [1.0] * 4
    files = {f"joint/{path.name}": path for path in (tmp_path / "joint").iterdir()}
    assert digests == {name: sha256(path) for name, path in files.items()}


@pytest.mark.parametrize("num_bytes", [1, 1 << 30], ids=["while tensors come", "at the end"])
def test_a_full_disk_is_told_at_the_end_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: None, num_bytes: int
) -> None:
    """All tensors are taken: other ranks send them, and would wait for ever."""
    monkeypatch.setattr(state_io, "MAX_FILE_BYTES", num_bytes)
    writer = StateWriter(tmp_path / "joint")
    for name in "abc":
        writer.add(name, torch.zeros(1000))
    with pytest.raises(RunError, match=rf"cannot write {tmp_path}/joint: .*"):
        writer.finish({})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, value: float) -> None:
    writer = StateWriter(tmp_path / "joint")
    writer.add("num_steps", torch.tensor([3]))
    writer.add("master/w", torch.tensor([1.0, value]))
    writer.add("master/v", torch.tensor([1.0]))
    with pytest.raises(DivergedError, match="master/w of joint is not finite"):
        writer.finish({})
    assert not list(tmp_path.iterdir())
