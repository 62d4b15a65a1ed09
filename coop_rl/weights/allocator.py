"""The settings of torch's allocator of GPU memory; imports torch where they are changed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Where torch reads them."""
GROWING = "expandable_segments:True"
"""Blocks that can grow, which lose less between micro-batches that differ in size."""


@contextmanager
def plain_segments() -> Iterator[None]:
    """Allocate blocks of a fixed place: those that can grow are not exported everywhere."""
    import torch

    change: Any = torch._C._accelerator_setAllocatorSettings
    # torch 2.11 sets and does not tell; what a process starts with stands in its environment. A
    # change resets what it leaves out.
    given = next((os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ), "")
    change(given.replace(GROWING, "expandable_segments:False"))
    try:
        yield
    finally:
        change(given)
