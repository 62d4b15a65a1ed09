"""The process above a run, over drivers that write a real run.json and do nothing else."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer

import psutil
import pytest

from coop_rl.commands import supervise as module
from coop_rl.commands.supervise import LOST, Restart, supervise
from coop_rl.config import RunConfig, load_config
from coop_rl.errors import ActorLostError, DivergedError, Interrupted, RayLostError, RunError
from coop_rl.observability.losses import losses, read_status
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.observability.run_status import RunStatus

DEMO = Path("configs/local/demo.yaml")
Act = Callable[[RunStatus, Restart | None], None]


def config_of(*overrides: str) -> RunConfig:
    return load_config(DEMO, ["recovery.backoff_s=0.01", *overrides])


def run(folder: Path, act: Act, *overrides: str, resume: str = "auto") -> list[str]:
    """Supervise drivers that do `act`; return what `--resume` and the restart's line were."""
    config, parent, log = config_of(*overrides), os.getpid(), folder.parent / "log"

    def train(resume: str, restart: Restart | None) -> None:
        with log.open("a") as file:
            file.write(f"{resume} {restart.line(2) if restart else ''}\n")
        with RunDirectory.open(config, folder).running() as status:
            status.goes_on_from(2)
            act(status, restart)

    try:
        supervise(config, folder, resume, train)
    except BaseException as error:
        if os.getpid() != parent:  # pytest must not go on twice
            os._exit(error.code if isinstance(error, SystemExit) else 1)  # type: ignore[arg-type]
        raise
    return log.read_text().splitlines()


def rows(folder: Path, num_steps: int) -> None:
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": k, "time/step_s": 1.0}) + "\n" for k in range(num_steps))
    )


def killed(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def actor_lost() -> None:
    raise ActorLostError("learner-joint-0 died in step: gone; see logs/x.log", ["learner-joint-0"])


def ray_lost() -> None:
    raise RayLostError("Ray's own process raylet (exit code -9) died; run the same command")


def silent() -> None:
    os._exit(1)  # as Ray ends a driver


@pytest.mark.parametrize(
    ("end", "who", "text"),
    [
        (killed, ("driver",), "the driver was killed by SIGKILL without a word"),
        (silent, ("driver",), "the driver ended with code 1 without a word"),
        (actor_lost, ("learner-joint-0",), "learner-joint-0 died in step"),
        (ray_lost, ("ray",), "Ray's own process raylet (exit code -9) died"),
    ],
)
def test_after_a_loss_the_run_goes_on_and_run_json_says_so(
    tmp_path: Path, end: Callable[[], None], who: tuple[str, ...], text: str
) -> None:
    folder = tmp_path / "run"

    def act(_: RunStatus, restart: Restart | None) -> None:
        if restart is None:
            rows(folder, 3)
            end()

    first, second = run(folder, act, resume="never")
    assert first == "never "
    assert second == f"auto {text} (after step 3); going on from step 2 (restart 1 of 3)"
    status = read_status(folder)
    (loss,) = losses(status)
    assert (loss.who, loss.cause, loss.step, loss.resumed_from) == (who, "died", 3, 2)
    assert (status["status"], status["num_resumes"]) == ("finished", 1)


def test_spent_budget_names_all_losses(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def act(_: RunStatus, restart: Restart | None) -> None:
        rows(folder, 4)
        killed() if restart else actor_lost()

    with pytest.raises(RunError) as caught:
        run(folder, act, "recovery.restarts=1")
    assert str(caught.value) == (
        "the driver was killed by SIGKILL without a word (after step 4); lost before, within 50 "
        "steps: learner-joint-0 died in step (after step 4); recovery.restarts is 1; run the same "
        "command to go on from the last checkpoint"
    )
    assert read_status(folder)["status"] == "failed"
    assert len(losses(read_status(folder))) == 2


def test_losses_far_apart_do_not_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def act(status: RunStatus, _: Restart | None) -> None:
        num_lost = len(status._values["losses"])
        rows(folder, 50 * (1 + num_lost))
        if num_lost < 3:
            killed()

    assert len(run(folder, act, "recovery.restarts=1")) == 4


@pytest.mark.parametrize(
    ("error", "code"), [(DivergedError("nan"), 1), (Interrupted("saved"), 1), (None, 2)]
)
def test_every_other_end_is_the_commands_own(
    tmp_path: Path, error: Exception | None, code: int
) -> None:
    def act(_: RunStatus, restart: Restart | None) -> None:
        assert restart is None
        if error:
            raise error  # which `main` would make 1 or 130
        sys.exit(code)

    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "run", act)
    assert ended.value.code == code
    assert losses(read_status(tmp_path / "run")) == []


def test_a_driver_that_dies_before_the_run_began_is_not_started_again(tmp_path: Path) -> None:
    def train(_: str, __: Restart | None) -> None:
        killed()

    with pytest.raises(RunError, match="killed by SIGKILL before the run began"):
        supervise(config_of(), tmp_path / "run", "auto", train)


def test_without_restarts_nothing_is_forked(tmp_path: Path) -> None:
    seen: list[tuple[int, str, Restart | None]] = []

    def train(resume: str, restart: Restart | None) -> None:
        seen.append((os.getpid(), resume, restart))
        actor_lost()

    with pytest.raises(ActorLostError):
        supervise(config_of("recovery.restarts=0"), tmp_path / "run", "never", train)
    assert seen == [(os.getpid(), "never", None)]


def test_who_went_back_to_a_checkpoint_goes_back_there_until_there_is_a_newer_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    old = folder / "checkpoints/step-000075/manifest.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    (folder / "config.json").write_text(config_of().model_dump_json())

    def act(_: RunStatus, restart: Restart | None) -> None:
        if restart and restart.number == 2:
            return
        if restart:
            new = folder / "checkpoints/step-000055/manifest.json"
            new.parent.mkdir()
            new.write_text("{}")
        killed()

    went = [line.split()[0] for line in run(folder, act, resume="step-000050")]
    assert went == ["step-000050", "step-000050", "auto"]


@pytest.mark.parametrize("to_both", [False, True])
def test_a_request_to_stop_reaches_the_driver_once(tmp_path: Path, *, to_both: bool) -> None:
    """As from `kill`, which means one process, and from a terminal or Ray, which mean both."""
    folder, got = tmp_path / "run", tmp_path / "got"

    def act(_: RunStatus, __: Restart | None) -> None:
        heard: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        (tmp_path / "ready").touch()
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            time.sleep(0.05)
        got.write_text(str(len(heard)))
        raise Interrupted("saved")

    def ask() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        if to_both:
            os.kill(read_status(folder)["pid"], signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = Timer(0.0, ask)
    asking.start()
    with pytest.raises(SystemExit):
        run(folder, act)
    asking.join()
    assert got.read_text() == "1"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_stop_after_a_loss_ends_it(tmp_path: Path) -> None:
    asking = Timer(0.0, lambda: None)

    def act(_: RunStatus, restart: Restart | None) -> None:
        assert restart is None
        (tmp_path / "dead").touch()
        killed()

    def ask() -> None:
        while not (tmp_path / "dead").exists():
            time.sleep(0.02)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    asking = Timer(0.0, ask)
    asking.start()
    with pytest.raises(Interrupted, match="stopped before it went on"):
        run(tmp_path / "run", act, "recovery.backoff_s=30")
    asking.join()
    assert read_status(tmp_path / "run")["status"] == "interrupted"


def test_orphans_of_a_lost_attempt_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ignores SIGTERM and lost its parent, as an actor does whose raylet is gone."""
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"

    def act(_: RunStatus, restart: Restart | None) -> None:
        if restart is None:
            shell = f"{sys.executable} -c '{code}' >&2 & echo $!"  # whose pipe it would hold
            done = subprocess.run(
                ["sh", "-c", shell], stdout=subprocess.PIPE, check=True, text=True
            )
            (tmp_path / "orphan").write_text(done.stdout)
            killed()
        assert not psutil.pid_exists(int((tmp_path / "orphan").read_text()))

    assert len(run(tmp_path / "run", act)) == 2


def test_a_driver_whose_supervisor_dies_is_asked_to_stop(tmp_path: Path) -> None:
    def act(_: RunStatus, __: Restart | None) -> None:
        signal_number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(signal_number), 0, 0, 0)  # PR_GET_PDEATHSIG
        sys.exit(signal_number.value)

    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "run", act)
    assert ended.value.code == signal.SIGTERM
    assert LOST not in (0, 1, 2, 130)
