"""The runs of a study, each a process `coop-rl train` of its own, several at a time if asked for.

A run that fails is an outcome: it is told, and the next one starts; several failures in a row are
no outcome but a fault of the machine, and end the study. A run that is refused ends it at once.
"""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from coop_rl.commands.supervise import PR_SET_PDEATHSIG
from coop_rl.errors import Interrupted, RunError, UserError
from coop_rl.study.planned import PlannedRun
from coop_rl.study.runs import error_of, read_study_run, write_declared

POLL_S = 0.5
FAILURES_IN_A_ROW = 3
"""After so many the study ends: the next run would fail as well."""
REFUSED, INTERRUPTED = 2, 130
"""Exit codes of a run whose input is wrong, and of one that somebody stopped."""
LIBC = ctypes.CDLL(None)


@dataclass(slots=True)
class Batch:
    """Runs that are started one after the other, `num_parallel` at a time."""

    num_parallel: int
    budget_s: float | None
    """No run starts once so much time has passed; None: all do."""
    say: Callable[[str], object]
    started: float = field(default_factory=time.monotonic)
    failed: list[str] = field(default_factory=list)
    """Names of the runs that failed."""
    _in_a_row: int = 0

    def train(self, runs: Sequence[PlannedRun]) -> bool:
        """Train runs; returns whether the budget allowed all of them.

        Raises:
            UserError: A run was refused; the others under way were stopped.
            RunError: Several in a row failed.
            Interrupted: The user stopped it; the runs under way have stopped at a checkpoint.
        """
        waiting, under_way = list(runs), dict[str, tuple[PlannedRun, subprocess.Popen[bytes]]]()
        times: dict[str, float] = {}
        num_done = 0
        try:
            while under_way or (waiting and not self._is_spent()):
                while waiting and len(under_way) < self.num_parallel and not self._is_spent():
                    run = waiting.pop(0)
                    under_way[run.name] = (run, start(run))
                    times[run.name] = time.monotonic()
                time.sleep(POLL_S)
                for name, (run, process) in list(under_way.items()):
                    if process.poll() is not None:
                        del under_way[name]
                        num_done += 1
                        took = time.monotonic() - times.pop(name)
                        self._note(run, process.returncode, f"[{num_done} of {len(runs)}]", took)
        except BaseException:
            stop([process for _, process in under_way.values()])
            raise
        return not waiting

    def _is_spent(self) -> bool:
        return self.budget_s is not None and time.monotonic() - self.started >= self.budget_s

    def _note(self, run: PlannedRun, code: int, which: str, took: float) -> None:
        if code == 0:
            self._in_a_row = 0
            self.say(f"{which} {run.name}: {took:,.0f} s{_figures(run)}")
            return
        why = error_of(run) or last_line(run.log) or f"exit code {code}"
        if code == REFUSED:
            raise UserError(f"{run.name} was refused: {why} ({run.log})")
        if code == INTERRUPTED:
            raise Interrupted(f"{run.name} was stopped")
        self.failed.append(run.name)
        self._in_a_row += 1
        self.say(f"{which} {run.name}: failed after {took:,.0f} s: {why}")
        if self._in_a_row == FAILURES_IN_A_ROW:
            raise RunError(
                f"{self._in_a_row} runs in a row failed, the last one {run.name}: {why}; see "
                f"{run.log}, then run the same command to go on"
            )


def start(run: PlannedRun) -> "subprocess.Popen[bytes]":
    """Start a run, or let it go on; what it prints is added to its log.

    It has a session of its own, so that a terminal's Ctrl-C reaches it once, through `stop`; it
    saves and stops when this process is gone.
    """
    write_declared(run)
    command = [sys.executable, "-m", "coop_rl", "train", str(run.declared)]
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [*command, "--run-dir", str(run.folder), "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(LIBC.prctl, PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        )


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask runs to save and stop, and wait for their end; asked again, they do not save."""
    while True:
        try:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGINT)
            for process in processes:
                process.wait()
        except (Interrupted, KeyboardInterrupt):
            continue
        return


def last_line(log: Path) -> str:
    """Return the last line that a run printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _figures(run: PlannedRun) -> str:
    """Return the greedy accuracy before and after, where it was measured."""
    results = read_study_run(run).results.get(run.config.evaluation.set_names[0], {})
    if len(results) < 2:
        return ""
    first, last = (results[step].pass_at_1.value for step in (min(results), max(results)))
    return f", pass@1 {first:.3f} to {last:.3f}"
