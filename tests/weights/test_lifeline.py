"""Processes of an engine end with the actor that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

CHILD = "from coop_rl.weights.lifeline import follow_parent; import time; follow_parent(); {then}"
IDLE = "print('up', flush=True); time.sleep(60)"
# Core starts worker, both follow; the worker is deaf to everything but its lifeline.
CORE = f"""
import subprocess, sys
subprocess.Popen([sys.executable, '-c', {CHILD.format(then=IDLE)!r}])
time.sleep(60)
"""
FRONT_END = f"""
from coop_rl.weights.lifeline import announce_parent
import subprocess, sys, time
announce_parent()
subprocess.Popen([sys.executable, '-c', {CHILD.format(then=CORE.strip().replace(chr(10), "; "))!r}])
time.sleep(60)
"""


def test_killed_front_end_takes_core_worker_and_the_sockets_folder_along(tmp_path: Path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/socket").touch()
    named = os.environ | {"COOP_RL_ENGINE_FOLDER": str(tmp_path / "engine")}
    front_end = subprocess.Popen(
        [sys.executable, "-c", FRONT_END], stdout=subprocess.PIPE, env=named
    )
    try:
        assert front_end.stdout is not None
        assert front_end.stdout.readline() == b"up\n"
        descendants = psutil.Process(front_end.pid).children(recursive=True)
        assert len(descendants) == 2
        time.sleep(1.5)
        assert all(process.is_running() for process in descendants)
        os.kill(front_end.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(descendants, timeout=10)
        assert not alive
        assert list(tmp_path.iterdir()) == []
    finally:
        front_end.kill()
        front_end.wait()


def test_process_of_somebody_else_is_left_alone():
    script = CHILD.format(then="import threading; print(threading.active_count())")
    environment = {k: v for k, v in os.environ.items() if k != "COOP_RL_ENGINE_PARENT"}
    for announced in (None, str(os.getppid())):
        if announced:
            environment["COOP_RL_ENGINE_PARENT"] = announced
        output = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, check=True
        )
        assert output.stdout == b"1\n"
