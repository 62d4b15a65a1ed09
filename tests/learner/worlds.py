"""Worlds of DeepSpeed ranks, started once for all tests that look at what they saw."""

from pathlib import Path
from typing import Any

import torch

from tests.learner.deepspeed_worker import run_rank
from tests.support.fresh import FRESH

STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
LIMIT_S = 420
LIMIT_OF_ALL_S = len(WORLDS) * LIMIT_S + 60
"""For the test that happens to start them."""


def record_world(world_size: int, folder: Path) -> dict[str, Any]:
    """Run one world; return what its last rank saw, by scene."""
    out = folder / f"world-{world_size}"
    ranks = [FRESH.Process(target=run_rank, args=(n, world_size, out)) for n in range(world_size)]
    for rank in ranks:
        rank.start()
    try:
        for rank in ranks:
            rank.join(LIMIT_S)
        codes = [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    logs = "\n".join(p.read_text()[-2000:] for p in folder.glob(f"{out.name}-rank-*.log"))
    assert codes == [0] * world_size, logs
    results: dict[str, Any] = torch.load(out, weights_only=True)
    return results
