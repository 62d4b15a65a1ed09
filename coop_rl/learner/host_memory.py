"""Host memory that malloc keeps of freed tensors, and how the system gets it back.

glibc keeps freed blocks of up to 32 MiB, as most activations on a CPU are, in arenas of a thread,
and gives back what lies at their ends alone. A learner of 135 million parameters kept 4 GiB more
than it held, and more with every step; giving it back takes 0.1 s (docs/results.md).

Source: mallopt(3) and malloc_trim(3), glibc.
"""

import ctypes
from functools import cache
from typing import Any


def give_back_freed_memory() -> None:
    """Give whole free pages back to the system; nothing where libc is not glibc."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
