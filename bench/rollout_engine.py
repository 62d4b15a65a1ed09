"""Rollout actor tokens/s against bare vLLM on the same requests.

    python bench/rollout_engine.py [MODEL] [ROUNDS]      writes bench/results.d/rollout_engine.json

Ours: one Ray rollout actor; the driver asks for groups (16 prompts x 8 samples of at most 64
tokens) and has them all when the clock stops. Bare: `vllm.LLM.generate` with the same engine
arguments and the same 128 requests, seeds and log-probs included; its own clock, so Ray costs it
nothing. Both sample the same tokens but for rounding. By turns, the other engine idle; medians.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import ray
from report import of_ratios, save

from coop_rl.config import RunConfig, load_config
from coop_rl.data.load import load_run_data
from coop_rl.distributed.actors import RolloutActor
from coop_rl.rollout.vllm_engine import VllmEngine, engine_environment, sampling_params
from coop_rl.rollout.worker import sample_seed
from coop_rl.types import Prompt, SamplingSettings

CONFIG = Path("configs/local/smollm2-chain-sum.yaml")
NUM_PROMPTS, NUM_SAMPLES, MAX_TOKENS = 16, 8, 64
LIMIT_S = 600.0


class BareEngine:
    """vLLM as its documentation uses it."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def start(self) -> None:
        """Load the model."""
        from vllm import LLM

        engine = VllmEngine(self._config, "gloo")
        os.environ.update(engine_environment(self._config))
        self._engine = LLM(**engine.arguments())

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingSettings) -> tuple[int, float]:
        """Return tokens and seconds."""
        from vllm.inputs import tokens_input

        inputs, params = [], []
        for prompt in prompts:
            for index in range(sampling.num_samples):
                seed = sample_seed(sampling.seed, prompt.id, index)
                inputs.append(tokens_input(list(prompt.token_ids)))
                params.append(sampling_params(sampling, sampling.max_tokens, seed))
        began = time.perf_counter()
        outputs = self._engine.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        return sum(len(output.outputs[0].token_ids) for output in outputs), seconds


def measure(config: RunConfig, rounds: int) -> list[tuple[float, float]]:
    """Return tokens/s of both, round by round; the first warms up."""
    data = load_run_data(config).prompts
    prompts: list[Prompt] = [data[row] for row in range(NUM_PROMPTS)]
    found = []
    actors: Any = ray.remote(num_cpus=0)(RolloutActor)
    ours = actors.options(max_concurrency=4096).remote(config, "gloo", Path("/dev/null"))
    bare = ray.remote(num_cpus=0)(BareEngine).remote(config)
    ray.get([ours.start.remote(), bare.start.remote()], timeout=LIMIT_S)  # type: ignore[attr-defined]
    for number in range(rounds + 1):
        sampling = SamplingSettings(NUM_SAMPLES, 1.0, 1.0, MAX_TOKENS, number)
        began = time.perf_counter()
        refs = [ours.generate.remote(prompt, sampling) for prompt in prompts]
        groups = ray.get(refs, timeout=LIMIT_S)
        seconds = time.perf_counter() - began
        tokens = sum(len(r.token_ids) for group in groups for r in group.rollouts)
        call = bare.generate.remote(prompts, sampling)  # type: ignore[attr-defined]
        bare_tokens, bare_seconds = ray.get(call, timeout=LIMIT_S)
        # Batches are put together in another order, which may tip a close draw.
        assert abs(tokens - bare_tokens) < 0.05 * tokens, (tokens, bare_tokens)
        if number:
            found.append((tokens / seconds, bare_tokens / bare_seconds))
    ray.get(ours.shutdown.remote(), timeout=LIMIT_S)
    return found


def main() -> None:
    """Measure, write, show."""
    model = sys.argv[1] if len(sys.argv) > 1 else "./models/smollm2-135m-instruct"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    config = load_config(CONFIG, [f"model.path={model}", "placement.rollout.cpus=2"])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        found = measure(config, rounds)
    finally:
        ray.shutdown()
    speeds = [median(speed) for speed in zip(*found, strict=True)]
    measured = of_ratios(
        "rollout actor over bare vLLM",
        [ours / bare for ours, bare in found],
        0.95,
        detail={"ours": speeds[0], "reference": speeds[1], "unit": "tokens/s"},
    )
    sys.stdout.write(f"{measured}\n")
    save("rollout_engine", [measured])


if __name__ == "__main__":
    main()
