"""A rollout engine alone on one GPU: tokens/s eager and with graphs, sleep and its residue.

    PYTHONPATH=bench python -m gpu.engine [--tiny] [--out FOLDER]

64 prompts x 8 samples of 512 tokens from random weights of 1.5 B, as a rollout actor asks for them;
then the engine sleeps and wakes, and must sample the same again. Not run on a GPU yet.
"""

import asyncio
import json
import sys
import time

import torch

from coop_rl.config import RunConfig, load_config
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.types import Rollout, SamplingSettings
from gpu.pieces import DEMO, Figures, Options, in_turn, options, random_model

GIB = 2**30
CASES: dict[str, dict[str, str]] = {
    "graphs": {},
    "eager": {"rollout.enforce_eager": "true"},
    "no prefix cache": {"rollout.prefix_caching": "false"},
}


def configure(given: Options, sets: dict[str, str]) -> RunConfig:
    """Return the config of a case."""
    on_gpu = given.device == "cuda"
    defaults = {
        "model.path": random_model(given.out, "tiny" if given.is_tiny else "1.5B"),
        "model.max_length": "128" if given.is_tiny else "1024",
        "rollout.dtype": "bfloat16" if on_gpu else "float32",
        "rollout.max_num_seqs": "8" if given.is_tiny else "512",
        "rollout.gpu_memory_utilization": "0.5",
        "placement.rollout.gpus": "1" if on_gpu else "0",
        "placement.colocated": "true",
    }
    return load_config(DEMO, [f"{name}={value}" for name, value in (defaults | sets).items()])


def used_gib() -> float:
    """Return what is taken of the device, by whoever it is."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB


async def ask(engine: VllmEngine, *, is_tiny: bool) -> tuple[list[Rollout], float]:
    """Return a step's rollouts and the seconds they took."""
    num_prompts, num_samples, most = (2, 2, 16) if is_tiny else (64, 8, 512)
    sampling = SamplingSettings(num_samples, 1.0, 1.0, most, 0)
    prompts = [tuple(range(3, 3 + 20 + n % 50)) for n in range(num_prompts)]
    began = time.perf_counter()
    calls = [
        engine.generate(prompt, sampling, 1000 * n + i)
        for n, prompt in enumerate(prompts)
        for i in range(num_samples)
    ]
    return await asyncio.gather(*calls), time.perf_counter() - began


async def measure(case: str, given: Options) -> Figures:
    """Return the figures of one case."""
    engine = VllmEngine(configure(given, CASES[case]), "gloo")
    before, began = used_gib(), time.perf_counter()
    await engine.start()
    started, awake = time.perf_counter() - began, used_gib()
    await ask(engine, is_tiny=given.is_tiny)
    first, seconds = await ask(engine, is_tiny=given.is_tiny)
    began = time.perf_counter()
    await engine.sleep(keeps_weights=True)
    slept, asleep = time.perf_counter() - began, used_gib()
    again, woken = await ask(engine, is_tiny=given.is_tiny)
    await engine.sleep()
    hollow = used_gib()
    await engine.shutdown()
    pairs = list(zip(first, again, strict=True))
    return {
        "tokens_s": sum(len(rollout.token_ids) for rollout in first) / seconds,
        "start_s": started,
        "awake_gib": awake - before,
        "asleep_gib": asleep - before,
        "asleep_without_weights_gib": hollow - before,
        "sleep_s": slept,
        "wake_and_generate_s": woken,
        "same_after_sleep": sum(a.token_ids == b.token_ids for a, b in pairs) / len(pairs),
    }


def main() -> None:
    """Measure every case, each in a process of its own."""
    given = options(__doc__)
    if given.case is None:
        in_turn("gpu.engine", given, list(CASES))
    else:
        sys.stdout.write(json.dumps(asyncio.run(measure(given.case, given))) + "\n")


if __name__ == "__main__":
    main()
