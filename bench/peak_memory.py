"""How much more memory a piece of work takes at its peak than was in use when it began."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

RESET_PEAK = "5"
"""What /proc/<pid>/clear_refs calls resetting the highest resident size; see proc(5)."""


def measure_extra_memory(pid: int | str = "self") -> Callable[[], int]:
    """Begin; the function returned gives the peak since then, in bytes above what was in use.

    Args:
        pid: Whose host memory; with "self" the memory of this process's GPU counts as well.

    Returns:
        Resident host memory plus allocated GPU memory. 0 where the kernel does not tell (not Linux,
        or another user's process), and for what went into memory that the allocator had kept.
    """
    status, has_gpu = Path(f"/proc/{pid}/status"), pid == "self" and torch.cuda.is_available()
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
    before_host, before_gpu = _read(status, "VmRSS"), 0
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
        before_gpu = torch.cuda.memory_allocated()

    def extra() -> int:
        host = max(0, _read(status, "VmHWM") - before_host)
        return host + (torch.cuda.max_memory_allocated() - before_gpu if has_gpu else 0)

    return extra


def _read(status: Path, name: str) -> int:
    with suppress(OSError):
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
