"""What `make check` runs pytest by tells what pytest found, and crashes of Python's own end."""

import subprocess
import sys
from pathlib import Path

import pytest

CRASH = "__import__('os').kill(__import__('os').getpid(), 11)"
ABORT = "import ctypes; libc = ctypes.CDLL(None); libc.__cxa_atexit(libc.abort, None, None)"
"""What a native library's destructor does that crashes once Python has ended."""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0),
        ("assert False", 1),
        ("import atexit; atexit.register(print, 'handler ran')", 0),
        (f"import atexit; atexit.register(lambda: {CRASH})", -11),
        (ABORT, 0),
    ],
)
def test_the_exit_code_is_pytests(tmp_path: Path, body: str, code: int) -> None:
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.session", "-p", "no:cacheprovider", tmp_path],
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert ("1 failed" if code == 1 else "1 passed") in done.stdout
    assert ("handler ran" in done.stdout) == ("handler ran" in body)
