"""Weight sync of SmolLM2-135M into a vLLM engine, against a raw gloo broadcast of as many bytes.

    python bench/weight_sync.py [MODEL] [ROUNDS]      writes bench/results.d/weight_sync.json

Ours is one whole `WeightPublisher.publish`: pause, gather, merge theta + s*B*A, checksums, send,
verify, load into the engine, resume; through memory that both processes share, as in a run on one
machine, and over sockets, as between two. Raw is torch's gloo broadcasting a flat buffer from this
process to another one, which answers when it has it. By turns, over loopback; bytes/s; engines in
fp32 and in bf16, which is half the bytes of the same fp32 weights. CPU seconds are those of both
processes. Extra memory is the highest resident size of the sender, and of the engine's worker,
above what it was before, over the size of the largest weight as it travels.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from peak_memory import measure_extra_memory
from report import Measure, of_ratios, save

from coop_rl.config import RunConfig, load_config
from coop_rl.learner.build import GatheredTheta, build_policy
from coop_rl.learner.engine import EngineSettings
from coop_rl.models import DTYPES
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.types import PolicyVersion
from coop_rl.weights.process_group import PeerGroup, open_store
from coop_rl.weights.publisher import WeightPublisher
from coop_rl.weights.receipt import receipt_of
from coop_rl.weights.source import MergedWeightSource
from tests.support.local_engine import LocalEngine

CONFIG = Path("configs/local/smollm2-chain-sum.yaml")
LIMIT_S = 120.0
HOST = "127.0.0.1"


class LoopClient:
    """The weight-sync calls, handed from the sender's thread to the engine's event loop."""

    def __init__(self, engine: VllmEngine, loop: asyncio.AbstractEventLoop) -> None:
        self.version = ""
        self.lost: dict[str, str] = {}
        self._engine = engine
        self._loop = loop

    def _run(self, coroutine: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.result(LIMIT_S)

    def require_present(self) -> None:
        """Do nothing: the engine is this process's."""

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


class RawBroadcast:
    """A flat buffer over gloo to a process of its own."""

    def __init__(self, num_bytes: int) -> None:
        store, port = open_store(HOST, LIMIT_S)
        command = [sys.executable, __file__, "receive", str(port), str(num_bytes)]
        self._receiver = subprocess.Popen(command)
        self.pid = self._receiver.pid
        self._group = PeerGroup.join(HOST, port, 0, 2, LIMIT_S, "raw", store=store)
        self._buffer = torch.ones(num_bytes, dtype=torch.uint8)
        self._answer = torch.zeros(1, dtype=torch.uint8)

    def seconds(self) -> float:
        """Send once."""
        began = time.perf_counter()
        self._group.broadcast(self._buffer)
        self._group.broadcast(self._answer, src=1)
        return time.perf_counter() - began

    def close(self) -> None:
        """End the receiver."""
        self._group.close()
        self._receiver.wait()


def receive(port: int, num_bytes: int) -> None:
    """Receive until the sender leaves."""
    group = PeerGroup.join(HOST, port, 1, 2, LIMIT_S, "raw")
    buffer = torch.empty(num_bytes, dtype=torch.uint8)
    while True:
        try:
            group.broadcast(buffer)
        except Exception:
            return
        group.broadcast(buffer[:1], src=1)


@dataclass(frozen=True, slots=True)
class Round:
    """One sync and one raw broadcast."""

    ours_s: float
    raw_s: float
    ours_cpu_s: tuple[float, float]
    raw_cpu_s: tuple[float, float]
    sender_bytes: int
    worker_bytes: int


def cpu_seconds(pid: int) -> Callable[[], tuple[float, float]]:
    """Begin; the function returned gives the CPU seconds of this process and of `pid` since."""

    def now() -> tuple[float, float]:
        own, other = psutil.Process().cpu_times(), psutil.Process(pid).cpu_times()
        return own.user + own.system, other.user + other.system

    before = now()

    def since() -> tuple[float, float]:
        own, other = now()
        return own - before[0], other - before[1]

    return since


def worker_pid() -> int:
    """Return the process of vLLM's worker: the largest of this one's descendants."""
    found = psutil.Process().children(recursive=True)
    return int(max(found, key=lambda process: process.memory_info().rss).pid)


async def measure(
    config: RunConfig, dtype: torch.dtype, rounds: int, shared_on: torch.device | None
) -> tuple[list[Round], int, int]:
    """Return the rounds, the bytes of a sync and those of the largest weight."""
    engine = VllmEngine(config, "gloo")
    await engine.start()
    worker = worker_pid()
    policy, adapter = build_policy(config)
    theta = GatheredTheta(LocalEngine(policy, EngineSettings.from_config(config)))
    publisher = WeightPublisher(
        backend="gloo",
        rank=0,
        num_engine_workers=1,
        host=HOST,
        client=LoopClient(engine, asyncio.get_running_loop()),
        source=MergedWeightSource(theta, adapter, dtype),
        timeout_s=LIMIT_S,
        shared_on=shared_on,
    )
    sizes = [dtype.itemsize * prod(shape) for _, shape in theta.metadata()]
    # Loading maps the file; a learner that has trained has read it.
    receipt_of(theta)
    raw, found = RawBroadcast(sum(sizes)), []
    for number in range(rounds + 1):
        at_worker, at_sender = measure_extra_memory(worker), measure_extra_memory()
        ours_cpu_s = cpu_seconds(worker)
        version = PolicyVersion(number, number)
        report = await asyncio.to_thread(publisher.publish, version)
        sender_bytes, worker_bytes, ours = at_sender(), at_worker(), ours_cpu_s()
        raw_cpu_s = cpu_seconds(raw.pid)
        raw_s = raw.seconds()
        found.append(Round(report.seconds, raw_s, ours, raw_cpu_s(), sender_bytes, worker_bytes))
    raw.close()
    publisher.close()
    await engine.shutdown()
    return found, sum(sizes), max(sizes)


def measures_of(name: str, rounds: list[Round], num_bytes: int, largest: int) -> list[Measure]:
    """Return speed and memory of one engine's type; the first round only counts for memory."""
    first, *found = rounds
    detail: dict[str, float | str] = {
        "ours": num_bytes / median(r.ours_s for r in found) / 1e9,
        "reference": num_bytes / median(r.raw_s for r in found) / 1e9,
        "unit": "GB/s",
    }
    for side, who in enumerate(("sender", "receiver")):
        detail[f"{who}_cpu_s"] = median(r.ours_cpu_s[side] for r in found)
        detail[f"raw_{who}_cpu_s"] = median(r.raw_cpu_s[side] for r in found)
    ratios = [r.raw_s / r.ours_s for r in found]
    measures = [of_ratios(f"weight sync over raw gloo, {name}", ratios, 0.6, detail=detail)]
    for who in ("sender", "worker"):
        # The first sync too: later ones find memory that it left behind.
        extra = [getattr(r, f"{who}_bytes") for r in (first, *found)]
        measures.append(
            Measure(
                f"peak memory of a sync over the largest weight, {name}, {who}",
                max(extra) / largest,
                min(extra) / largest,
                max(extra) / largest,
                3.0,
                higher_is_better=False,
                detail={"ours": max(extra) / 1e6, "reference": largest / 1e6, "unit": "MB"},
            )
        )
    return measures


def main() -> None:
    """Measure, write, show."""
    if sys.argv[1:2] == ["receive"]:
        receive(int(sys.argv[2]), int(sys.argv[3]))
        return
    model = sys.argv[1] if len(sys.argv) > 1 else "./models/smollm2-135m-instruct"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    measures = []
    for name in ("float32", "bfloat16"):
        settings = [f"model.path={model}", "model.dtype=float32", f"rollout.dtype={name}"]
        config = load_config(CONFIG, settings)
        for road, shared_on in (("shared memory", torch.device("cpu")), ("sockets", None)):
            found = asyncio.run(measure(config, DTYPES[name], rounds, shared_on))
            measures += measures_of(f"{name}, {road}", *found)
    for measured in measures:
        sys.stdout.write(f"{measured}\n")
    save("weight_sync", measures)


if __name__ == "__main__":
    main()
