"""The processes of reward pools, from outside."""

from contextlib import suppress

import psutil

FORK_SERVER = "from multiprocessing.forkserver import main"
"""In the command line of the server and of the processes that it forks."""


def reward_workers() -> list[psutil.Process]:
    """Return those of the pools that this process holds, the newest last."""
    found = []
    for server in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended meanwhile
            if FORK_SERVER in " ".join(server.cmdline()):
                found += server.children()
    return found
