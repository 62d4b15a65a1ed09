"""Ends vLLM's processes when the rollout actor that started them was killed.

    rollout actor (front end) --> engine core --> workers

vLLM's engine core outlives a front end that dies without saying so (SIGKILL, out of memory) and
keeps its memory and devices for ever. The front end announces itself in the environment; the core
and the workers, which run our vLLM plugin, each watch their parent. Processes of a vLLM that we did
not start find no announcement and are left alone.

Whichever of them ends last takes the folder of their sockets with it, which vLLM never does.
"""

import asyncio
import os
import shutil
import threading
import time

PARENT_VARIABLE = "COOP_RL_ENGINE_PARENT"
FOLDER_VARIABLE = "COOP_RL_ENGINE_FOLDER"
"""Names the folder of an engine's sockets, which is its own."""
POLL_S = 1.0


def announce_parent() -> None:
    """Make the processes started from here follow this one."""
    os.environ[PARENT_VARIABLE] = str(os.getpid())


def follow_parent() -> None:
    """End this process soon after the parent that announced itself; nothing in other processes."""
    announced = os.environ.get(PARENT_VARIABLE)
    if announced is None or int(announced) == os.getpid():
        return
    parent = int(announced)
    if os.getppid() != parent and _is_alive(parent):
        return  # a helper that somebody in between started and looks after
    announce_parent()
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="lifeline").start()


def remove_folder() -> None:
    """Remove the folder of the engine's sockets, whoever came first."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)


async def gone(pid: int, limit_s: float) -> None:
    """Wait until a process of this machine, and those that follow it, are gone, or `limit_s`.

    A stopped process goes 5 s after Ray killed it; until then its memory and devices are not free.
    """
    deadline = time.monotonic() + limit_s
    while _is_alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S / 10)
    # Of an engine, its process follows the actor, and its core that process.
    await asyncio.sleep(2 * POLL_S)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    remove_folder()
    # Not sys.exit: the main thread may be inside a collective that nobody will ever join.
    os._exit(1)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
