"""Host memory that a process frees is kept for its next step or weight sync.

By default glibc maps every tensor of more than 32 MiB anew and gives it back when it is freed, so a
step on the CPU spends a fifth of its time on page faults (`python bench/learner.py`).
"""

import ctypes

MALLOPT = "mallopt"
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Of glibc's malloc.h."""
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_ARENA_MAX: 1}
"""No mappings of their own for large blocks, nothing is given back; one heap for all
threads, since those that the others would get are too small for a large block."""


def keep_freed_memory() -> bool:
    """Let this process's allocator keep what is freed; False where the C library is not glibc."""
    library = ctypes.CDLL(None)
    if not hasattr(library, MALLOPT):
        return False
    return all(library.mallopt(name, value) for name, value in SETTINGS.items())
