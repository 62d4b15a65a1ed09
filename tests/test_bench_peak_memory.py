import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from peak_memory import measure_extra_memory

MIB = 2**20


def test_extra_memory_is_the_peak_above_what_was_held() -> None:
    held = bytearray(b"x") * (32 * MIB)
    extra = measure_extra_memory()
    passing = bytearray(b"x") * (64 * MIB)
    del passing
    assert extra() == pytest.approx(64 * MIB, rel=0.1)
    assert measure_extra_memory()() < 8 * MIB
    assert len(held) == 32 * MIB


def test_a_process_that_is_gone_has_none() -> None:
    assert measure_extra_memory(pid=2**22 + 1)() == 0
