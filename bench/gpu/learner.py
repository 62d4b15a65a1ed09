"""A learner alone on one GPU: memory, tokens/s, MFU, host syncs, the speed of its weights.

    PYTHONPATH=bench python -m gpu.learner [--tiny] [--out FOLDER]

RL steps of one rank on 16 prompts x 8 random responses of 400 tokens in the middle, by ZeRO stage,
attention and size of micro-batches; and a loop as one writes it by hand (`bench/learner.py`), on
the same batches. Needs neither Ray nor vLLM. Not run on a GPU yet.
"""

import json
import math
import random
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import torch
from learner import bare_steps

from coop_rl.algorithm.packing import PackShape, pack, useful_share
from coop_rl.config import RunConfig, load_config
from coop_rl.learner.build import GatheredTheta, LearnerRank
from coop_rl.learner.learner import Learner
from coop_rl.models import DTYPES
from coop_rl.planning.devices import peak_tflops
from coop_rl.planning.flops import micro_batch_flops
from coop_rl.planning.memory import GIB, learner_memory
from coop_rl.planning.shape import shape_of
from coop_rl.types import BranchBatch, Objective, PackedBatch, TokenSample
from coop_rl.weights.source import MergedWeightSource
from gpu.pieces import DEMO, Figures, Options, in_turn, options, random_model

NUM_STEPS = 4
RL = Objective(1.0, 0.0)
CASES: dict[str, dict[str, str]] = {
    "bare loop": {},
    "varlen": {},
    "sdpa": {"learner.attention": "sdpa"},
    "varlen, ZeRO 2": {"learner.zero_stage": "2"},
    "varlen, ZeRO 3": {"learner.zero_stage": "3"},
    "varlen, no checkpointing": {"learner.activation_checkpointing": "false"},
    "varlen, micro-batches of 4,096": {"learner.micro_batch_tokens": "4096"},
    "varlen, logits 4 GiB": {"learner.logits_gib": "4"},
}
"""What each sets; stages 2 and 3 are forced on a single rank, which else takes 0."""


def configure(given: Options, sets: dict[str, str]) -> RunConfig:
    """Return the config of a case."""
    defaults = {
        "model.path": random_model(given.out, "tiny" if given.is_tiny else "1.5B"),
        "model.dtype": "bfloat16",
        "method.kind": "rl",
        "learner.attention": "varlen",
        "learner.zero_stage": "0",
        "learner.micro_batch_tokens": "256" if given.is_tiny else "16384",
        "learner.activation_checkpointing": "true",
        "learner.grad_stats_every": "0",
        "learner.warmup_steps": "0",
        "placement.learner.gpus": str(int(given.device == "cuda")),
    }
    return load_config(DEMO, [f"{name}={value}" for name, value in (defaults | sets).items()])


def samples(seed: int, *, is_tiny: bool) -> list[TokenSample]:
    """Return random rollouts with a long tail."""
    draw = random.Random(seed)
    num_prompts, num_samples, prompt, middle = (2, 4, 20, 20) if is_tiny else (16, 8, 160, 400)
    most = 500 if is_tiny else 150_000
    found = []
    for _ in range(num_prompts):
        shared = tuple(draw.randrange(1, most) for _ in range(prompt))
        for _ in range(num_samples):
            length = min(1024, max(8, int(draw.lognormvariate(math.log(middle), 0.6))))
            ids = tuple(draw.randrange(1, most) for _ in range(length))
            found.append(TokenSample(shared, ids, (-10.0,) * length, draw.uniform(-1, 1)))
    return found


def build(config: RunConfig) -> Learner:
    """Return a learner of one rank, at the stage that the config names."""
    with patch("coop_rl.learner.engine.zero_stage", lambda c: c.learner.zero_stage):
        rank = LearnerRank(config, "joint", 0)
        return rank.start(*rank.open_world("127.0.0.1"))


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(step: Callable[[int, PackedBatch], object], batches: Sequence[PackedBatch]) -> float:
    """Return the median seconds of a step; the first warms up."""
    seconds = []
    for number, batch in enumerate(batches):
        wait()
        began = time.perf_counter()
        step(number, batch)
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def host_syncs(learner: Learner, batch: PackedBatch) -> Figures:
    """Return how often a step makes the host wait, and where most."""
    if not torch.cuda.is_available():
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        learner.step(NUM_STEPS, BranchBatch((batch,)), RL)
    torch.cuda.set_sync_debug_mode("default")
    places = Counter(f"{w.filename.rpartition('site-packages/')[2]}:{w.lineno}" for w in seen)
    most = "; ".join(f"{place} x {count}" for place, count in places.most_common(10))
    return {"host_syncs": sum(places.values()), "host_sync_places": most}


def source_speed(learner: Learner, config: RunConfig) -> float:
    """Return GB/s at which merged weights come, in the type they travel in."""
    source = MergedWeightSource(
        GatheredTheta(learner.engine), learner.adapter, DTYPES[config.rollout.dtype]
    )
    wait()
    began = time.perf_counter()
    num_bytes = sum(weight.numel() * weight.element_size() for _, weight in source)
    wait()
    return num_bytes / (time.perf_counter() - began) / 1e9


def measure(case: str, given: Options) -> Figures:
    """Return the figures of one case."""
    config = configure(given, CASES[case])
    shape = shape_of(config.model.path)
    cut = replace(PackShape.from_config(config, hidden_size=shape.hidden), num_ranks=1)
    if case == "bare loop":
        cut = replace(cut, layout="trees")
    more: dict[str, float | int | str | None] = {}
    batches = [pack(samples(n, is_tiny=given.is_tiny), [], cut) for n in range(NUM_STEPS)]
    if case == "bare loop":
        step = bare_steps(config.model.path, torch.bfloat16, 0.0, given.device)
        seconds = timed(lambda _, batch: step(batch), batches)
    else:
        learner = build(config)
        held = torch.cuda.memory_allocated() / GIB if given.device == "cuda" else 0.0
        seconds = timed(lambda n, batch: learner.step(n, BranchBatch((batch,)), RL), batches)
        more = {
            "held_gib": held,
            "plan_gib": learner_memory(config, shape).total / GIB,
            "source_gbs": source_speed(learner, config),
            **host_syncs(learner, batches[0]),
        }
    peak = torch.cuda.max_memory_allocated() / GIB if given.device == "cuda" else 0.0
    tokens = statistics.median(sum(m.num_tokens for m in b.rl[0]) for b in batches[1:])
    work = statistics.median(
        sum(3 * micro_batch_flops(shape, m) for m in b.rl[0]) for b in batches[1:]
    )
    fastest = peak_tflops(given.device_name, "bfloat16")
    return {
        "tokens_s": tokens / seconds,
        "mfu": work / seconds / fastest / 1e12 if fastest else None,
        "peak_gib": peak,
        "micro_batches": len(batches[1].rl[0]),
        "useful": useful_share(batches),
        **more,
    }


def main() -> None:
    """Measure every case, each in a process of its own: a process has one torch world."""
    given = options(__doc__)
    if given.case is None:
        in_turn("gpu.learner", given, list(CASES))
    else:
        sys.stdout.write(json.dumps(measure(given.case, given)) + "\n")


if __name__ == "__main__":
    main()
