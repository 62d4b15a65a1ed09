"""Worlds of DeepSpeed ranks, started once for all tests that look at what they saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet

from tests.learner.deepspeed_worker import run_rank
from tests.support.fresh import FRESH

STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
LIMIT_S = 420
LIMIT_OF_ALL_S = len(WORLDS) * LIMIT_S + 60
"""For the test that happens to start them."""


def stage_of(scene: str) -> int:
    """Return the ZeRO stage of a scene: the number in its name."""
    return next(int(part) for part in scene.split("-") if part.isdigit())


def cases(scenes: Sequence[int | str]) -> list[ParameterSet]:
    """Return (world size, scene or stage) for every world.

    A run of one rank takes stage 0 whatever is asked for: its other stages are for `make prove`.
    """
    return [
        pytest.param(
            world_size,
            scene,
            marks=[pytest.mark.prove] * (world_size == 1 and stage_of(str(scene)) > 0),
        )
        for world_size in WORLDS
        for scene in scenes
    ]


def record_world(world_size: int, stages: Sequence[int], folder: Path) -> dict[str, Any]:
    """Run one world's scenes of some stages; return what its last rank saw, by scene."""
    out = folder / f"world-{world_size}"
    arguments = [(n, world_size, stages, out) for n in range(world_size)]
    ranks = [FRESH.Process(target=run_rank, args=given) for given in arguments]
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
