"""Worlds of DeepSpeed ranks, started once for all tests that look at what they saw."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet

from tests.learner.deepspeed_worker import all_scenes, run_rank
from tests.support.fresh import FRESH

STAGES = (0, 1, 2, 3)
ALIKE = (0, 1)
"""Stage 1 of two ranks runs DeepSpeed's optimiser of stage 2, stage 0 that of one rank: most of
their scenes are for `make prove`."""
LIGHT = tuple(f"{scene}-{stage}" for stage in ALIKE for scene in ("steps", "replay", "sft_cut"))
"""Those that are not."""
EXACT_TWICE = (("joint", False), ("shadow", True))
"""Five exact steps: the other two pairs show each branch and each way through the activations."""
TWICE = tuple(f"exact-{stage}-{b}-{c}" for stage in STAGES for b, c in EXACT_TWICE)
WORLDS = (1, 2)
LIMIT_S = 420
LIMIT_OF_ALL_S = len(WORLDS) * LIMIT_S + 60
"""For the test that happens to start them."""


def stage_of(scene: str) -> int:
    """Return the ZeRO stage of a scene: the number in its name."""
    return next(int(part) for part in scene.split("-") if part.isdigit())


def cases(scenes: Sequence[int | str], *, light: bool = False) -> list[ParameterSet]:
    """Return (world size, scene or stage) for every world.

    A run of one rank takes stage 0 whatever is asked for: its other stages are for `make prove`.

    Args:
        scenes: What each world did.
        light: Whether the scenes are in `LIGHT` where their stage is `ALIKE`.
    """
    return [
        pytest.param(
            world_size,
            scene,
            marks=[pytest.mark.prove] * is_rare(world_size, stage_of(str(scene)), light=light),
        )
        for world_size in WORLDS
        for scene in scenes
    ]


def is_rare(world_size: int, stage: int, *, light: bool) -> bool:
    """Return whether a world's scene of some stage is for `make prove`."""
    return stage > 0 if world_size == 1 else stage in ALIKE and not light


def names_of(world_size: int, every: Iterable[str], *, is_whole: bool) -> list[str]:
    """Return the scenes that a world runs, of all there are."""
    return [
        name
        for name in every
        if is_whole
        or not (name in TWICE or is_rare(world_size, stage_of(name), light=name in LIGHT))
    ]


def record_world(world_size: int, folder: Path, *, is_whole: bool) -> dict[str, Any]:
    """Run one world's scenes, all or those of `make check`; return what its last rank saw."""
    out = folder / f"world-{world_size}"
    names = names_of(world_size, all_scenes(out), is_whole=is_whole)
    arguments = [(n, world_size, names, out) for n in range(world_size)]
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
