"""When a request to stop is heard, and how often a checkpoint is hashed."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from coop_rl.algorithm.roles import Progress
from coop_rl.commands.checks import _resume_point
from coop_rl.config import load_config
from coop_rl.distributed.calls import wait_a_moment
from coop_rl.distributed.member import Member
from coop_rl.distributed.team import Team
from coop_rl.driver import checkpoint_store
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.driver.checkpoints import TeamCheckpoints
from coop_rl.driver.stop import StopAtBoundary, StopRequest
from coop_rl.errors import Interrupted, RunDirectoryError
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion

DEMO = Path("configs/local/demo.yaml")


def signalled(stop: StopRequest, number: int) -> None:
    os.kill(os.getpid(), number)
    assert stop.is_set


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_training_the_first_request_ends_the_next_wait(number: int) -> None:
    stop = StopRequest()
    with stop.listening():
        wait_a_moment([], 0.0)
        signalled(stop, number)
        with pytest.raises(Interrupted, match="nothing was trained yet"):
            wait_a_moment([], 0.0)
        with pytest.raises(Interrupted, match="nothing was trained yet"):
            stop.begin_training()


def test_while_training_the_first_request_waits_for_a_boundary() -> None:
    stop = StopRequest()
    with stop.listening():
        stop.begin_training()
        signalled(stop, signal.SIGTERM)
        wait_a_moment([], 0.0)
        with stop.at_boundary(), pytest.raises(StopAtBoundary):
            wait_a_moment([], 0.0)
        signalled(stop, signal.SIGTERM)
        with pytest.raises(Interrupted, match="at once"):
            wait_a_moment([], 0.0)


def test_a_lost_terminal_is_written_to_no_more() -> None:
    """Writing to it would fail before the checkpoint is saved; what goes to a file goes on."""

    def leads_to(stream: int) -> str:
        return str(Path(f"/proc/self/fd/{stream}").readlink())

    kept, others = os.dup(0), [leads_to(1), leads_to(2)]
    _, terminal = os.openpty()
    stop = StopRequest()
    try:
        os.dup2(terminal, 0)
        with stop.listening():
            signalled(stop, signal.SIGHUP)
        assert [leads_to(0), leads_to(1), leads_to(2)] == [os.devnull, *others]
    finally:
        os.dup2(kept, 0)


def test_a_run_under_nohup_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    try:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_set
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_checkpoint_is_hashed_once_when_resumed_and_not_again_when_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stands = CheckpointStore(tmp_path, keep=1), Progress(3, PolicyVersion(3, 3))
    folder = store.begin(3)
    (folder / "tensors").write_bytes(b"x" * 100)
    written = store.commit(folder, stands)
    config, hashed, sha256 = load_config(DEMO), [], checkpoint_store._sha256

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(checkpoint_store, "_sha256", counting)
    found = _resume_point(config, store, "auto")
    assert found == written
    nobody: Any = None
    team = Team(rollouts=(), reward=Member("reward", nobody))
    roles = TeamCheckpoints(config, team, store, found, StopRequest(), Stages())
    assert roles.restore() == stands
    with pytest.raises(Interrupted, match="after step 3"):
        roles.save_and_stop()
    assert sorted(hashed) == ["progress.json", "tensors"]

    (written / "tensors").write_bytes(b"y")
    assert _resume_point(config, store, "auto") is None
    with pytest.raises(RunDirectoryError, match="does not match its checksum"):
        _resume_point(config, store, str(written))
