"""Bytes of a learner rank by torch's profiler, and on disk, each rank in a fresh process."""

import gc
import tempfile
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import RunConfig
from coop_rl.learner.build import LearnerRank
from coop_rl.types import BranchBatch, Objective, TokenSample
from tests.support.fresh import FRESH

NUM_STEPS = 2
LIMIT_S = 240


def learner_bytes(config: RunConfig, num_samples: int, length: int) -> dict[str, float]:
    """Return what rank 0 of a learner group held: at `startup`, `resting` after a step, at its
    `peak` during one; and the bytes of what all ranks wrote as their `checkpoint`.

    Args:
        config: The run; `learner.num_ranks` processes are started.
        num_samples: Responses of a step, all ranks together, each of other tokens.
        length: Tokens of each, prompt included.
    """
    ours, its = FRESH.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        given = (num_samples, length, Path(folder))
        first = FRESH.Process(target=rank_main, args=(config, 0, *given, its, None))
        first.start()
        ranks, address = [first], ours.recv()
        for number in range(1, config.learner.num_ranks):
            other = FRESH.Process(target=rank_main, args=(config, number, *given, None, address))
            ranks.append(other)
            other.start()
        try:
            assert ours.poll(LIMIT_S), f"nothing measured within {LIMIT_S} s"
            found: dict[str, float] = ours.recv()
            for rank in ranks:
                rank.join(LIMIT_S)
        finally:
            for rank in ranks:
                rank.kill()
        return {**found, "checkpoint": bytes_in(Path(folder))}


def _samples(num_samples: int, length: int) -> list[TokenSample]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(num_samples):
        ids = torch.randint(3, 20, (length,), generator=generator).tolist()
        prompt, response = tuple(ids[:4]), tuple(ids[4:])
        found.append(TokenSample(prompt, response, (-3.0,) * len(response), 1.0))
    return found


def _resting() -> float:
    storages: dict[int, int] = {}
    for thing in gc.get_objects():
        # Not isinstance: proxies among all objects of the process would be woken by it.
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return float(sum(storages.values()))


def bytes_in(folder: Path) -> float:
    """Return the bytes of all files in a folder."""
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def held(recorded: Any) -> list[int]:
    """Return the bytes that were held after each allocation and release that a profiler saw."""
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    ordered = sorted(events, key=lambda e: e.start_ns())
    return list(accumulate((e.nbytes() for e in ordered), initial=0))


def most_held(recorded: Any) -> float:
    """Return the most bytes that were held at a time while a profiler recorded."""
    return float(max(held(recorded)))


def rank_main(
    config: RunConfig,
    number: int,
    num_samples: int,
    length: int,
    folder: Path,
    pipe: Connection | None,
    address: tuple[str, int] | None,
) -> None:
    """Build, step, measure; rank 0 sends its address and then what it measured."""
    torch.set_num_threads(1)
    rank = LearnerRank(config, "joint", number)
    if pipe:
        address = rank.open_world("127.0.0.1")
        pipe.send(address)
    assert address
    shape = PackShape.from_config(config, hidden_size=config.learner.micro_batch_tokens)
    batch = pack(_samples(num_samples, length), [], shape)
    before = _resting()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as starting:
        learner = rank.start(*address)
    # What the threads that load a model allocate is not recorded, and stays.
    unseen = _resting() - before - held(starting)[-1]
    learner.step(0, BranchBatch((batch,)), Objective(1.0, 0.0))
    resting = _resting()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for step in range(1, NUM_STEPS):
            learner.step(step, BranchBatch((batch,)), Objective(1.0, 0.0))
    tokens = sum(micro.num_tokens for micro in batch.rl[number])
    learner.save_state(folder)
    if pipe:
        pipe.send(
            {
                "startup": most_held(starting) + unseen,
                "resting": resting,
                "peak": resting + most_held(recorded),
                "tokens": tokens,
            }
        )
