"""When a request to stop is heard, and how often a checkpoint is hashed."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from coop_rl.commands.resume import find_start
from coop_rl.config import RunConfig, load_config
from coop_rl.distributed.calls import wait_a_moment
from coop_rl.distributed.member import Member
from coop_rl.distributed.team import Team
from coop_rl.driver import checkpoint_check, checkpoint_store, checkpoints
from coop_rl.driver.checkpoint_check import Inputs, damage, read_stored
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.driver.checkpoints import TeamCheckpoints
from coop_rl.driver.stop import StopAtBoundary, StopRequest
from coop_rl.errors import ActorLostError, Interrupted, RunError
from coop_rl.files import sha256
from coop_rl.observability.losses import Loss
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion
from tests.driver.tiny_checkpoints import ROLES, progress, save

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


def roles_of(
    store: CheckpointStore,
    found: Path | None,
    stop: StopRequest,
    told: list[str] | None = None,
    config: RunConfig | None = None,
    kind: type[TeamCheckpoints] = TeamCheckpoints,
) -> TeamCheckpoints:
    """The role over a team of nobody, whose steps end with what a test planted."""
    nobody: Any = None
    team = Team(rollouts=(), rewards=(Member("reward", nobody),))
    warn = told.append if told is not None else lambda _: None
    config = config or load_config(DEMO, ["checkpoint.every=1", "run.num_steps=9"])
    return kind(config, team, store, found, stop, Stages(), warn)


def test_a_checkpoint_is_hashed_once_when_resumed_and_not_again_when_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=1, roles=ROLES)
    written = save(store, 3)
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(checkpoint_check, "sha256", counting)
    found = find_start(load_config(DEMO), store, "auto", Inputs()).checkpoint
    assert found == written
    roles = roles_of(store, found, StopRequest())
    assert roles.restore() == progress(3)
    with pytest.raises(Interrupted, match="after step 3"):
        roles.save_and_stop()
    assert len(hashed) == len(set(hashed)) + 4  # three roles' files have two names
    assert "progress.json" in hashed


def test_snapshots_are_taken_while_they_are_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 10 s; a save takes 0.4 s at first, which is less than 5 % of it, then 1.2 s."""
    clock, save_s = [0.0], [0.4]
    begin = CheckpointStore.begin

    def timed(store: CheckpointStore, step: int) -> Path:
        clock[0] += save_s[0]
        return begin(store, step)

    monkeypatch.setattr(checkpoints, "monotonic", lambda: clock[0])
    monkeypatch.setattr(CheckpointStore, "begin", timed)
    store = CheckpointStore(tmp_path, keep=9)
    config = load_config(
        DEMO, ["checkpoint.every=6", "run.num_steps=99", "recovery.snapshot_every=1"]
    )
    roles = roles_of(store, None, StopRequest(), config=config)
    saved = []
    for step in range(12):
        clock[0] += 10.0
        before = roles.last
        roles.maybe_save(step, PolicyVersion(step + 1, step + 1), {}, {})
        if roles.last != before:
            saved.append(step + 1)
        save_s[0] = 1.2 if step >= 2 else 0.4
    assert saved == [1, 2, 3, 4, 6, 9, 12]
    assert [int(p.name[-2:]) for p in store.all()] == [6, 9, 12]


class Writing(TeamCheckpoints):
    """Learners that are done when a test says so."""

    answers: list[dict[str, str] | RunError | None]

    def _written(self, *, waits: bool) -> list[dict[str, str] | None]:
        answer = self.answers.pop(0)
        assert answer is not None or not waits
        if isinstance(answer, RunError):
            raise answer
        return [answer]


def test_what_is_written_beside_training_is_committed_at_the_boundary_where_it_is_there(
    tmp_path: Path,
) -> None:
    store, told = CheckpointStore(tmp_path, keep=9), list[str]()
    sets = ["checkpoint.every=2", "run.num_steps=9", "checkpoint.beside_training=true"]
    roles = roles_of(store, None, StopRequest(), told, load_config(DEMO, sets), Writing)
    assert isinstance(roles, Writing)

    def step(done: int, *answers: dict[str, str] | RunError | None) -> list[int]:
        roles.answers = list(answers)
        roles.maybe_save(done - 1, PolicyVersion(done, done), {}, {})
        assert not roles.answers
        return [int(path.name[-2:]) for path in store.all()]

    assert step(2) == []  # begun
    assert step(3, None) == []
    assert step(4, {}) == [2]  # and 4 is begun
    assert step(5, None) == [2]
    assert step(6, None, {}) == [2, 4]  # one at a time: 4 is waited for
    failure = RunError("the disk is full")
    assert step(7, failure) == [2, 4]
    assert told == [
        f"no checkpoint after step 6: the disk is full; the last checkpoint is {roles.last}; "
        "the run goes on"
    ]
    assert not list(tmp_path.glob("tmp-*"))
    assert step(8) == [2, 4]
    assert step(9, None, {}) == [2, 4, 8, 9]  # the last one is there when the run ends
    assert read_stored(tmp_path / "step-000008").progress == progress(8)


def test_files_of_a_rank_on_another_disk_are_missed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    folder = store.begin(3)
    with pytest.raises(OSError, match=r"joint/state\.json was written on another"):
        store.commit(folder, progress(3), digests={"joint/state.json": "0" * 64})


def test_without_room_the_run_goes_on_and_the_last_checkpoint_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, told = CheckpointStore(tmp_path, keep=1), list[str]()
    written = save(store, 3)
    monkeypatch.setattr(CheckpointStore, "free_bytes", lambda _: 100)
    roles, version = roles_of(store, written, StopRequest(), told), PolicyVersion(4, 4)
    roles.maybe_save(3, version, {}, {})
    (line,) = told
    assert line.startswith("no checkpoint after step 4: ")
    assert line.endswith(f"100 free; the last checkpoint is {written}; the run goes on")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    # The last step has nothing to go on to.
    with pytest.raises(RunError, match=r"no checkpoint after step 9: .* the last checkpoint is"):
        roles.maybe_save(8, PolicyVersion(9, 9), {}, {})
    monkeypatch.undo()
    roles.maybe_save(4, PolicyVersion(5, 5), {}, {})
    assert roles.last == tmp_path / "step-000005"


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, told = CheckpointStore(tmp_path, keep=1), list[str]()
    written = save(store, 3)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_store, "put_in_place", full)
    roles = roles_of(store, written, StopRequest(), told)
    roles.maybe_save(3, PolicyVersion(4, 4), {}, {})
    assert told == [
        "no checkpoint after step 4: No space left on device; the last checkpoint is "
        f"{written}; the run goes on"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    assert damage(written, ROLES) is None


def test_who_is_lost_in_a_save_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows, a restart and its row, is about the actor and how it was lost."""

    def hung(*_: object, **__: object) -> None:
        raise ActorLostError("meta-controller is silent", ["meta-controller"], "hung")

    monkeypatch.setattr(checkpoint_store, "put_in_place", hung)
    roles = roles_of(CheckpointStore(tmp_path, keep=1), None, StopRequest(), [])
    with pytest.raises(ActorLostError, match="; no checkpoint after step 4; there is no") as told:
        roles.maybe_save(3, PolicyVersion(4, 4), {}, {})
    assert (told.value.actors, told.value.cause) == (("meta-controller",), "hung")
    assert Loss.of(told.value, tmp_path).in_short == "meta-controller is silent"


def test_what_was_trained_before_a_failure_is_saved(tmp_path: Path) -> None:
    roles = roles_of(CheckpointStore(tmp_path, keep=1), None, StopRequest())
    assert roles.save_before_failing() == "nothing was trained yet"
    assert not list(tmp_path.iterdir())
    roles._boundary = progress(2)
    assert roles.save_before_failing().startswith("the 2 steps before are in ")
    assert (tmp_path / "step-000002").is_dir()
