"""Host memory that a learner frees is kept for its next step.

By default glibc maps every tensor of more than 32 MiB anew and gives it back when it is freed, so a
step on the CPU spends a fifth of its time on page faults (`python bench/learner.py`).
"""

import ctypes

MALLOPT = "mallopt"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 * 2**20}
"""No mappings of their own for large blocks, nothing is given back, the heap grows in 64 MiB."""


def keep_freed_memory() -> bool:
    """Let this process's allocator keep what is freed; False where the C library is not glibc."""
    library = ctypes.CDLL(None)
    if not hasattr(library, MALLOPT):
        return False
    return all(library.mallopt(name, value) for name, value in SETTINGS.items())
