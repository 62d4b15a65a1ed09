"""`make gpu` where there is no device: one line, rather than tests that all skip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="gpu: there is a device")
def test_make_gpu_says_that_there_is_no_device() -> None:
    own = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Not as a part of the `make` that may run the tests: it would speak of its own jobs first.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", "gpu"]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"PATH": own}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "sees no CUDA device" in done.stderr.splitlines()[0]
    assert done.stdout == ""
