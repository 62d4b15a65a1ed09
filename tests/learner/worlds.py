"""Worlds of DeepSpeed ranks, started once for all tests that look at what they saw."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
LIMIT_S = 420
LIMIT_OF_ALL_S = len(WORLDS) * LIMIT_S + 60
"""For the test that happens to start them."""


def run_world(world_size: int, folder: Path) -> "list[subprocess.Popen[bytes]]":
    """Start the ranks of one world."""
    out = folder / f"world-{world_size}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SCENES": ""}
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.learner.deepspeed_worker",
                str(rank),
                str(world_size),
                "0",
                str(out),
            ],
            cwd=ROOT,
            env=environment,
            stdout=(folder / f"world-{world_size}-rank-{rank}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(world_size)
    ]


def record_world(world_size: int, folder: Path) -> dict[str, Any]:
    """Run one world; return what its last rank saw, by scene."""
    processes = run_world(world_size, folder)
    try:
        codes = [process.wait(LIMIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = "\n".join(p.read_text()[-2000:] for p in folder.glob(f"world-{world_size}-*.log"))
    assert not any(codes), logs
    results: dict[str, Any] = torch.load(folder / f"world-{world_size}", weights_only=True)
    return results["results"]
