"""Freed blocks between blocks that are still held go back to the system."""

import ctypes
from pathlib import Path

import pytest
import torch

from coop_rl.learner.host_memory import give_back_freed_memory

MIB = 1 << 20


def resident_mib() -> float:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def hold_between_freed(num_mib: int) -> list[torch.Tensor]:
    """Allocate and free so much in blocks that malloc does not map by themselves, some held."""
    # A freed block of 16 MiB makes malloc map only larger ones by themselves from then on.
    torch.ones(16 * MIB, dtype=torch.uint8)
    blocks = [torch.ones(MIB, dtype=torch.uint8) for _ in range(num_mib)]
    return blocks[31::32]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="libc is not glibc")
def test_what_is_freed_between_held_blocks_is_given_back() -> None:
    held = hold_between_freed(512)
    kept = resident_mib()
    give_back_freed_memory()
    assert kept - resident_mib() > 300
    assert all(int(block.sum()) == MIB for block in held)
