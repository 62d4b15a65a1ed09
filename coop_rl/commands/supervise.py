"""The process above a run: it starts the driver, and starts it again when somebody was lost.

    coop-rl train --fork--> driver: checks, actors, loop
          ^                    | exit code LOST, or died without closing run.json
          +-- end what is left, wait, go on from the newest whole checkpoint

Every other end of the driver is the command's own end: 0, 2, 130, and 1 for a run that failed of
itself. The fork happens once the config is read, before anything heavy is imported, so a first
start costs milliseconds and this process stays small; the driver prints, has the terminal, and
hears the terminal's signals as ever. It imports neither torch nor ray.
"""

import ctypes
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from coop_rl.config import RunConfig
from coop_rl.config.recovery import RecoverySection
from coop_rl.errors import ActorLostError, Interrupted, RunError
from coop_rl.files import point_nowhere
from coop_rl.observability.losses import (
    TO_GO_ON,
    Loss,
    close_status,
    losses,
    now,
    read_status,
    steps_recorded,
)

LOST = 75
"""Exit code of a driver that lost somebody: a temporary failure, in the words of sysexits.h. Seen
by the supervisor alone."""
POLL_S = 0.1
HEARING_S = 0.3
"""How long a driver gets to hear by itself a signal that this process got: a terminal, and a Ray
job's end, send it to both."""
GRACE_S = 3.0
"""How long the processes of a lost attempt get to end by themselves, before they are killed."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Restart:
    """Why a driver is not the run's first."""

    lost: Loss
    number: int
    """Which one within the budget, from 1."""
    limit: int

    def line(self, step: int) -> str:
        """Say it all, where the run goes on after `step` steps."""
        where = f"going on from step {step}" if step else "starting anew"
        return f"{self.lost}; {where} (restart {self.number} of {self.limit})"


Train = Callable[[str, Restart | None], object]
"""Trains; gets what `--resume` is now, and why it is no first attempt."""


def supervise(config: RunConfig, run_dir: Path | None, resume: str, train: Train) -> None:
    """Run `train` in a process of its own, again after each loss; returns when it has finished.

    Where `recovery.restarts` is 0, `train` runs here.

    Args:
        config: The run's.
        run_dir: Its directory; None: `<run.dir>/<run.name>`.
        resume: What `--resume` was given.
        train: See `Train`.

    Raises:
        SystemExit: The driver ended otherwise, and has said why.
        RunError: More was lost than the budget allows; all losses are named.
        Interrupted: The user stopped it after a loss.
    """
    if not config.recovery.restarts:
        train(resume, None)
        return
    folder = (run_dir or Path(config.run.dir) / config.run.name).absolute()
    supervisor = Supervisor(config.recovery, folder, resume, train)
    with _subreaper(), supervisor.signals.taken():
        supervisor.run()


class Supervisor:
    """One command's attempts at a run."""

    def __init__(self, section: RecoverySection, folder: Path, resume: str, train: Train) -> None:
        """Note which checkpoints are there before the first attempt."""
        self._section = section
        self._folder = folder
        self._resume = resume
        self._train = train
        self._losses: list[Loss] = []
        self._known = self._checkpoints()
        self.signals = Signals()

    def run(self) -> None:
        """Start drivers until one ends for good; see `supervise`."""
        restart: Restart | None = None
        while True:
            num_listed = len(losses(read_status(self._folder)))
            pid = self.signals.fork()
            if pid == 0:
                self._drive(restart)
            code = self.signals.wait_for(pid)
            loss = self._loss(pid, code, num_listed)
            if loss is None and code < 0:
                name = signal.Signals(-code).name
                raise RunError(f"the driver was killed by {name} before the run began")
            if loss is None and code:
                sys.exit(code)
            if loss is None:
                return
            end_descendants()
            restart = self._next(loss)

    def _drive(self, restart: Restart | None) -> NoReturn:
        """Train in this process, which is the driver, and end it."""
        try:
            self._train(self._resume_now() if restart else self._resume, restart)
        except ActorLostError:
            if losses(read_status(self._folder)):
                sys.exit(LOST)  # it is written down, and the supervisor tells of it
            raise
        sys.exit(0)

    def _loss(self, pid: int, code: int, num_listed: int) -> Loss | None:
        """Return what a driver that ended has lost; None: nothing, or it had not begun."""
        status = read_status(self._folder)
        if status.get("pid") != pid or code == 0:
            return None
        if len(listed := losses(status)) > num_listed:
            return listed[-1]
        if status.get("status") != "running":
            return None
        how = (
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        error = f"the driver {how} without a word"
        loss = Loss(now(), steps_recorded(self._folder), ("driver",), "died", error)
        close_status(self._folder, "failed", error, [loss])
        return loss

    def _next(self, loss: Loss) -> Restart:
        """Wait before the next attempt, if the budget has one.

        Raises:
            RunError: It has none.
            Interrupted: The user wants none.
        """
        self._losses.append(loss)
        section = self._section
        recent = [one for one in self._losses if loss.step - one.step < section.window]
        if len(recent) > section.restarts:
            before = ", ".join(map(str, recent[:-1]))
            reason = loss.error.removesuffix(f"; {TO_GO_ON}")
            raise RunError(
                f"{reason} (after step {loss.step}); lost before, within {section.window} steps: "
                f"{before}; recovery.restarts is {section.restarts}; {TO_GO_ON}"
            )
        if self.signals.pause(section.pause_s(len(recent))):
            close_status(self._folder, "interrupted", f"stopped after a loss: {loss}")
            raise Interrupted(f"{loss}; stopped before it went on; run the same command to go on")
        return Restart(loss, len(recent), section.restarts)

    def _resume_now(self) -> str:
        """Return what `--resume` would be by now.

        Who asked to go back to one checkpoint goes back there again, until there is a newer one.
        """
        is_path = self._resume not in ("auto", "never")
        return self._resume if is_path and self._checkpoints() <= self._known else "auto"

    def _checkpoints(self) -> set[tuple[str, int]]:
        """Return which checkpoints the run's folder has, told apart from others of their steps."""
        found = self._folder.glob("checkpoints/step-*/manifest.json")
        return {(path.parent.name, path.stat().st_mtime_ns) for path in found}


class Signals:
    """Requests to stop: heard here, and passed on to a driver that did not hear them itself.

    A second one means more than the first, so a driver must not hear one twice. It reports what it
    has heard through a pipe, which Python's own handler writes to at once.
    """

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self._got: list[tuple[float, int]] = []
        self._heard: Counter[int] = Counter()
        self._sent: Counter[int] = Counter()
        self._pipe = -1
        self._previous: dict[int, signal._HANDLER] = {}

    def fork(self) -> int:
        """Fork, and return as `os.fork` does; from then on this process takes its signals."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            if pid := os.fork():
                os.close(writing)
                self._pipe, self._heard, self._sent = reading, Counter(), Counter()
                self._listen()
                return pid
            os.close(reading)
            self._give_back()
            signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
            # Without a supervisor the run saves and stops.
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
            return 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def wait_for(self, pid: int) -> int:
        """Return the exit code of the driver, negative where a signal killed it."""
        try:
            while True:
                ended, status = os.waitpid(-1, os.WNOHANG)  # orphans of the attempt too
                if ended == pid:
                    return os.waitstatus_to_exitcode(status)
                if not ended:
                    time.sleep(POLL_S)
                    self._pass_on(pid)
        finally:
            os.close(self._pipe)

    def pause(self, seconds: float) -> bool:
        """Wait; returns whether a stop was asked for by then."""
        deadline = time.monotonic() + seconds
        while not self._got and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left))
        return bool(self._got)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Give the signals back, on leaving, to whoever had them before the first fork."""
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _listen(self) -> None:
        for number in SIGNALS:
            is_nohup = number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
            if number not in self._previous and not is_nohup:
                self._previous[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._got.append((time.monotonic(), number))
        if number == signal.SIGHUP:
            point_nowhere(stream for stream in (0, 1, 2) if os.isatty(stream))

    def _pass_on(self, pid: int) -> None:
        """Send the driver what it should have heard by now."""
        if not self._got:
            return
        with suppress(BlockingIOError):
            self._heard.update(os.read(self._pipe, 4096))
        since = time.monotonic() - HEARING_S
        for number, count in Counter(n for at, n in self._got if at < since).items():
            while max(self._heard[number], self._sent[number]) < count:
                os.kill(pid, number)
                self._sent[number] += 1


def end_descendants() -> None:
    """End what a lost attempt left: its processes, orphans included, are this one's descendants."""
    import psutil

    def is_tracker(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return "resource_tracker" in " ".join(process.cmdline())
        return False

    def kill(process: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess):
            process.kill()

    ours = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs(ours, GRACE_S)
    # Resource trackers end by themselves, once they have cleaned up after those they track.
    for process in alive:
        if not is_tracker(process):
            kill(process)
    _, alive = psutil.wait_procs(alive, GRACE_S)
    for process in alive:
        kill(process)
    psutil.wait_procs(alive, GRACE_S)


@contextmanager
def _subreaper() -> Iterator[None]:
    """Be the parent of orphaned descendants, so that they can be found and ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _prctl(PR_SET_CHILD_SUBREAPER, 0)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
