"""Rollout tokens per second and weight-sync seconds of the demo's model: `make bench`.

One process tree, no Ray: the same VllmEngine, RolloutWorker and WeightPublisher that a run uses,
driven directly. Writes bench/results.json and prints a table: median of 5 with minimum and maximum.
"""

import asyncio
import json
import os
import statistics
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from coop_rl.config import load_config
from coop_rl.learner.build import GatheredTheta, build_policy
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.local_engine import LocalEngine
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings
from coop_rl.weights.publisher import WeightPublisher
from coop_rl.weights.source import MergedWeightSource

REPEATS = 5
NUM_PROMPTS, NUM_SAMPLES = 32, 8
LIMIT_S = 60.0
RESULTS = Path(__file__).parent / "results.json"


class LoopClient:
    """The weight-sync calls, handed from the sender's thread to the engine's event loop."""

    def __init__(self, engine: VllmEngine, loop: asyncio.AbstractEventLoop) -> None:
        self.version = ""
        self._engine = engine
        self._loop = loop

    def _run(self, coroutine: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.result(LIMIT_S)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the transfer group."""
        self._run(self._engine.init_weight_transfer(init_info))

    def start_weight_update(self) -> None:
        """Pause and open an update."""
        self._run(self._engine.start_weight_update())

    def update_weights(self, update_info: Any) -> None:
        """Receive."""
        self._run(self._engine.update_weights(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the update and resume."""
        self._run(self._engine.finish_weight_update(weight_version or self.version))


async def measure() -> dict[str, list[float]]:
    """Return the samples of both figures."""
    config = load_config(Path("configs/local/demo.yaml"))
    engine = VllmEngine(config, "gloo")
    await engine.start()
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    rows = [json.loads(line) for line in Path(str(config.prompts.path)).read_text().splitlines()]
    prompts = [
        Prompt(
            row["id"], row["prompt"], tuple(tokenizer(row["prompt"])["input_ids"]), row["answer"]
        )
        for row in rows[:NUM_PROMPTS]
    ]
    policy, adapter = build_policy(config)
    theta = LocalEngine(policy, EngineSettings.from_config(config))
    publisher = WeightPublisher(
        backend="gloo",
        rank=0,
        num_engine_workers=1,
        host="127.0.0.1",
        client=LoopClient(engine, asyncio.get_running_loop()),
        source=MergedWeightSource(GatheredTheta(theta), adapter, torch.float32),
        timeout_s=LIMIT_S,
    )
    worker = RolloutWorker(engine)
    figures: dict[str, list[float]] = {"rollout tokens/s": [], "sync seconds": []}
    for repeat in range(REPEATS + 1):
        report = await asyncio.to_thread(publisher.publish, PolicyVersion(repeat, repeat))
        sampling = SamplingSettings(NUM_SAMPLES, 1.0, 1.0, config.rollout.max_tokens, repeat)
        began = time.perf_counter()
        groups = await asyncio.gather(*(worker.generate_group(p, sampling) for p in prompts))
        seconds = time.perf_counter() - began
        if repeat:  # the first round warms up
            tokens = sum(len(r.token_ids) for group in groups for r in group.rollouts)
            figures["rollout tokens/s"].append(tokens / seconds)
            figures["sync seconds"].append(report.seconds)
    publisher.close()
    await engine.shutdown()
    return figures


def main() -> None:
    """Measure, write, show."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    figures = asyncio.run(measure())
    summary = {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v), "samples": v}
        for name, v in figures.items()
    }
    RESULTS.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    table = Table("figure", "median", "min", "max", title=f"demo model, {REPEATS} repeats")
    for name, s in summary.items():
        table.add_row(name, *(f"{s[key]:,.3f}" for key in ("median", "min", "max")))
    Console().print(table)


if __name__ == "__main__":
    main()
