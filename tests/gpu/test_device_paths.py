"""The paths only a GPU takes: sleep mode, DeepSpeed on CUDA, NCCL, and a whole run on one device.

`make gpu` runs them, in the environment it is called from (the GPU extra and pytest, or the image
with pytest and pytest-timeout); in other test runs they skip without a CUDA device. Not run yet,
for want of one.
"""

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from coop_rl.algorithm.lanes import BatchRow, grow_trees, lay_out
from coop_rl.config import load_config
from coop_rl.driver.canary import BF16_TOLERANCE, FP32_GPU_TOLERANCE
from coop_rl.models import varlen
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.types import SamplingSettings
from coop_rl.weights.process_group import PeerGroup, open_store
from tests.main_job.harness import DEMO, metrics, train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
ONE_GPU = (
    "placement.rollout={cpus: 1, gpus: 0.4}",
    "placement.learner={cpus: 0.5, gpus: 0.3}",
    "placement.shadow={cpus: 0.5, gpus: 0.3}",
    "rollout.gpu_memory_utilization=0.2",
    "run.num_steps=3",
    "sync.canary_every=1",
    "model.dtype=bfloat16",
    "rollout.dtype=bfloat16",
)
GIVEN_BACK = 0.8
"""Share of an engine's memory that sleep must free: the CUDA context stays."""


def two_devices() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("gpu: needs two CUDA devices")


def test_a_sleeping_engine_frees_memory_and_samples_the_same_afterwards() -> None:
    config = load_config(DEMO, [*ONE_GPU, "placement.colocated=true"])
    sampling = SamplingSettings(num_samples=1, temperature=1.0, top_p=1.0, max_tokens=16, seed=0)

    async def turn() -> tuple[Any, Any, list[int]]:
        engine, free = VllmEngine(config, "gloo"), [torch.cuda.mem_get_info()[0]]
        await engine.start()
        before = await engine.generate([5, 6, 7], sampling, 1)
        free.append(torch.cuda.mem_get_info()[0])
        await engine.sleep(keeps_weights=True)
        free.append(torch.cuda.mem_get_info()[0])
        after = await engine.generate([5, 6, 7], sampling, 1)
        await engine.shutdown()
        return before, after, free

    before, after, (empty, awake, asleep) = asyncio.run(turn())
    assert before.token_ids == after.token_ids
    assert asleep - awake > GIVEN_BACK * (empty - awake)


@pytest.mark.parametrize("colocated", [False, True])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_run_on_one_device(tmp_path: Path, colocated: bool, stage: int) -> None:
    turns = f"placement.colocated={str(colocated).lower()}"
    job = train(tmp_path / "run", *ONE_GPU, turns, f"learner.zero_stage={stage}").start()
    done = job.finish(500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert job.left_over() == []
    rows = [row for row in metrics(tmp_path / "run") if "reward/mean" in row]
    assert [row["sync/canary_mean"] < BF16_TOLERANCE for row in rows] == [True] * 3
    assert [row["sync/shares_memory"] for row in rows] == [1.0] * 3


def test_float32_on_one_device(tmp_path: Path) -> None:
    dtypes = ("model.dtype=float32", "rollout.dtype=float32", "learner.attention=sdpa")
    done = train(tmp_path / "run", *ONE_GPU, *dtypes).start().finish(500)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row for row in metrics(tmp_path / "run") if "reward/mean" in row]
    assert [row["sync/canary_mean"] < FP32_GPU_TOLERANCE for row in rows] == [True] * 3


def test_moments_in_host_memory_but_for_updates(tmp_path: Path) -> None:
    kind = ("learner.zero_stage=3", "learner.offload=true")
    done = train(tmp_path / "run", *ONE_GPU, *kind).start().finish(500)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("heads", [(4, 4), (8, 2), (16, 2)])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("window", [None, 100])
def test_torchs_kernel_attends_as_its_stand_in_does(heads, size: int, window: int | None) -> None:
    num_heads, num_keys = heads
    prompt, responses = tuple(range(1, 200)), [(7,) * n for n in (50, 130, 1, 77)]
    rows = [BatchRow(i, prompt, response) for i, response in enumerate(responses)]
    grid = lay_out([grow_trees([*rows, BatchRow(9, (3, 4), (5,) * 90)], 10_000)]).grid
    length = grid.token_ids_KL.size(1)
    torch.manual_seed(0)
    counts = (num_heads, num_keys, num_keys)
    parts = [torch.randn(1, n, length, size, dtype=torch.bfloat16) for n in counts]
    slope, found = torch.randn(1, length, num_heads, size), []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        q, k, v = (part.to(device, dtype).requires_grad_() for part in parts)
        spans = varlen.spans_of(grid).to(torch.device(device))
        layer = torch.nn.Identity()
        out, _ = varlen.attend(layer, q, k, v, None, spans=spans, sliding_window=window)
        (out.float() * slope.to(device)).sum().backward()
        found.append([out, q.grad, k.grad, v.grad])
    for exact, ours in zip(*found, strict=True):
        assert exact is not None
        assert ours is not None
        error = (ours.float().cpu() - exact).norm() / exact.norm()
        assert error < 0.02  # bf16 rounds to 0.004


def test_flash_attention_scores_as_sdpa_does(tmp_path: Path) -> None:
    pytest.importorskip("flash_attn", reason="gpu: needs flash-attn")
    kind = ("learner.attention=flash_attention_2", "learner.zero_stage=2")
    done = train(tmp_path / "run", *ONE_GPU, *kind).start().finish(500)
    assert done.returncode == 0, done.stderr[-2000:]  # every learner checks its packing at start


def test_weights_over_nccl(tmp_path: Path) -> None:
    two_devices()
    own = (
        "placement.rollout={cpus: 1, gpus: 1}",
        "placement.learner={cpus: 1, gpus: 1}",
        "method.kind=rl",
        "sync.backend=nccl",
        "sync.canary_every=1",
        "run.num_steps=3",
    )
    done = train(tmp_path / "run", *own).start().finish(500)
    assert done.returncode == 0, done.stderr[-2000:]


def _member(host: str, port: int, rank: int, results: Any) -> None:
    torch.cuda.set_device(rank)
    group = PeerGroup.join(host, port, rank, 2, 60.0, "test", backend="nccl")
    tensor = torch.full((1024,), float(rank), device="cuda")
    group.broadcast(tensor)
    torch.cuda.synchronize()
    results.put(float(tensor.sum()))


def test_a_peer_group_over_nccl() -> None:
    two_devices()
    store, port = open_store("127.0.0.1", 60.0)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    members = [
        context.Process(target=_member, args=("127.0.0.1", port, rank, results)) for rank in (0, 1)
    ]
    for member in members:
        member.start()
    assert [results.get(timeout=120), results.get(timeout=120)] == [0.0, 0.0]
    for member in members:
        member.join(30)
    del store


def test_the_small_demo_says_which_device_it_used(tmp_path: Path) -> None:
    done = train(tmp_path / "run", *ONE_GPU, "run.num_steps=1").start().finish(500)
    assert done.returncode == 0, done.stderr[-2000:]
    actors = (tmp_path / "run/actors.json").read_text()
    assert '"gpus": []' in actors  # the reward actor
    assert '"gpus": [\n      "0"' in actors
