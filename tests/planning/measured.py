"""Tensor bytes of a learner rank by torch's profiler, in a process of its own.

python -m tests.planning.measured CONFIG_JSON RANK HOST PORT   (RANK 0: prints HOST PORT first)
"""

import gc
import json
import subprocess
import sys
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import RunConfig
from coop_rl.learner.build import LearnerRank
from coop_rl.types import BranchBatch, Objective, TokenSample
from tests.main_job.harness import ROOT

NUM_STEPS = 2


def learner_bytes(config: RunConfig, num_samples: int, length: int) -> dict[str, float]:
    """Return what rank 0 of a learner group held: `resting` after a step, `peak` during one.

    Args:
        config: The run; `learner.num_ranks` processes are started.
        num_samples: Responses of a step, all ranks together, each of other tokens.
        length: Tokens of each, prompt included.
    """
    given = json.dumps(config.model_dump(mode="json"))

    def start(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.planning.measured", given, *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    sizes = (str(num_samples), str(length))
    first = start("0", *sizes)
    assert first.stdout is not None
    line = first.stdout.readline().split()
    others = [start(str(n), *sizes, *line) for n in range(1, config.learner.num_ranks)]
    out, _ = first.communicate(timeout=300)
    for other in others:
        other.communicate(timeout=60)
    assert first.returncode == 0
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


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


def _peak(recorded: Any) -> float:
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return float(most)


def main() -> None:
    """Build, step, print."""
    config = RunConfig.model_validate(json.loads(sys.argv[1]))
    number, num_samples, length = (int(value) for value in sys.argv[2:5])
    rank = LearnerRank(config, "joint", number)
    if number == 0:
        host, port = rank.open_world("127.0.0.1")
        print(host, port, flush=True)
    else:
        host, port = sys.argv[5], int(sys.argv[6])
    shape = PackShape.from_config(config, hidden_size=config.learner.micro_batch_tokens)
    batch = pack(_samples(num_samples, length), [], shape)
    learner = rank.start(host, port)
    learner.step(0, BranchBatch((batch,)), Objective(1.0, 0.0))
    resting = _resting()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for step in range(1, NUM_STEPS):
            learner.step(step, BranchBatch((batch,)), Objective(1.0, 0.0))
    tokens = sum(micro.num_tokens for micro in batch.rl[number])
    result = {"resting": resting, "peak": resting + _peak(recorded), "tokens": tokens}
    if number == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
