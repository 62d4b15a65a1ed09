"""A role's state is written whole and finite, or not at all, and nobody is kept waiting."""

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coop_rl.errors import DivergedError, RunError
from coop_rl.learner import state_io
from coop_rl.learner.state_io import StateReader, StateWriter


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
