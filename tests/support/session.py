"""Pytest, then an end without the native libraries' destructors: `python -m tests.support.session`.

Ray, torch, vLLM and gRPC share this one process, as they never do in a run. Seldom one of their
destructors crashes after Python has ended, all tests passed and told, and the exit code is 139.
Python's own end is whole: whatever registered with `atexit` has run before.
"""

import atexit
import os
import sys
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> None:
    """Run pytest; the process ends with its exit code as the last of Python's exit handlers."""
    code = 1
    atexit.register(lambda: _leave(code))  # handlers run in reverse: before all others' imports
    import pytest

    code = int(pytest.main(list(arguments)))
    sys.stdout.flush()  # an exit handler that crashes must not take what pytest said along


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run(sys.argv[1:])
