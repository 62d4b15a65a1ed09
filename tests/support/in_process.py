"""`coop-rl` inside the test's own process: for commands that end before anything is started."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil
import ray

from coop_rl.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def coop_rl(*arguments: str) -> Ended:
    """Run a command in the repository root; check that it started neither Ray nor a process.

    A run stays in this process too, as it does without restarts.
    """
    if arguments[0] in ("train", "demo"):
        arguments = (*arguments, "--set=recovery.restarts=0")
    out, err = io.StringIO(), io.StringIO()
    before = psutil.Process().children(recursive=True)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with (
            contextlib.chdir(ROOT),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            patch.object(sys, "argv", ["coop-rl", *arguments]),
        ):
            main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not ray.is_initialized()
    assert psutil.Process().children(recursive=True) == before
    return Ended(code, out.getvalue(), err.getvalue())
