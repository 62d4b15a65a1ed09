"""Checks that try the parts a run rests on: two ranks that talk, and an engine that samples."""

import asyncio
import multiprocessing
import os
import queue
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from coop_rl.config import RunConfig
from coop_rl.diagnosis.finding import Finding
from coop_rl.observability.logs import redirect_output

COLLECTIVE_LIMIT_S = 60.0
ENGINE_LIMIT_S = 600.0
NUM_BYTES = 64 * 2**20
PROMPT = (1, 2, 3)


def collective() -> Finding:
    """Broadcast between two processes, as weights and guidance travel."""
    from coop_rl.weights.process_group import open_store

    backend = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    store, port = open_store("127.0.0.1", COLLECTIVE_LIMIT_S)
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    members = [
        context.Process(target=_member, args=(port, rank, backend, results), daemon=True)
        for rank in (0, 1)
    ]
    for member in members:
        member.start()
    try:
        seconds = max(results.get(timeout=COLLECTIVE_LIMIT_S) for _ in members)
    except queue.Empty:
        raise TimeoutError(f"no answer within {COLLECTIVE_LIMIT_S:g} s") from None
    finally:
        for member in members:
            member.kill()
            member.join()
        del store
    return Finding("collective", "ok", f"2 ranks, {backend}: {NUM_BYTES / seconds / 1e9:.2f} GB/s")


def _member(port: int, rank: int, backend: Any, results: Any) -> None:
    from coop_rl.weights.process_group import PeerGroup

    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    group = PeerGroup.join(
        "127.0.0.1", port, rank, 2, COLLECTIVE_LIMIT_S, "doctor", backend=backend
    )
    payload = torch.full((NUM_BYTES,), rank, dtype=torch.uint8, device=device)
    group.broadcast(payload[:1].contiguous())
    began = time.perf_counter()
    group.broadcast(payload)
    if backend == "nccl":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    if payload.any():
        raise RuntimeError("the broadcast brought other bytes")
    results.put(seconds)
    time.sleep(1)  # the other's last bytes come over our connection


def engine(config: RunConfig) -> Finding:
    """Start vLLM on the config's model and sample a few tokens, in a process of its own."""
    descriptor, name = tempfile.mkstemp(prefix="coop-rl-doctor-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    tried = context.Process(target=_sample, args=(config, log, results))
    tried.start()
    deadline = time.monotonic() + ENGINE_LIMIT_S
    while tried.is_alive() and results.empty() and time.monotonic() < deadline:
        tried.join(0.2)
    try:
        seconds, num_tokens = results.get(timeout=1)
    except queue.Empty:
        tried.kill()
        raise RuntimeError(f"no sample from {config.model.path}; see {log}") from None
    tried.join()
    log.unlink()
    found = f"{config.model.path}: started and sampled {num_tokens} tokens in {seconds:.0f} s"
    return Finding("vLLM", "ok", found)


def _sample(config: RunConfig, log: Path, results: Any) -> None:
    redirect_output(log)
    from coop_rl.rollout.vllm_engine import VllmEngine
    from coop_rl.types import SamplingSettings

    sampling = SamplingSettings(num_samples=1, temperature=1.0, top_p=1.0, max_tokens=8, seed=0)

    async def trial() -> tuple[float, int]:
        began, tested = time.perf_counter(), VllmEngine(config, "gloo")
        try:
            await tested.start()
            rollout = await tested.generate(PROMPT, sampling, 0)
            return time.perf_counter() - began, len(rollout.token_ids)
        finally:
            await tested.shutdown()

    results.put(asyncio.run(trial()))
