"""How well devices are used: only where a device has a known peak; shares add up to the step."""

from dataclasses import replace

import pytest

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import load_config
from coop_rl.metric_names import describe
from coop_rl.observability.throughput import Throughput
from coop_rl.planning.flops import micro_batch_flops
from coop_rl.planning.shape import shape_of
from coop_rl.types import BranchBatch, TokenSample
from tests.main_job.harness import DEMO
from tests.observability.records import bridge

TIMINGS = {"time/step_s": 4.0, "time/generate_s": 1.0, "time/train_s": 2.0, "time/publish_s": 0.5}
GPUS = [f"placement.{role}.gpus=1" for role in ("learner", "shadow", "rollout")]


def test_on_a_cpu_there_are_shares_alone() -> None:
    metrics = Throughput(load_config(DEMO, [])).of_step(bridge(), TIMINGS)
    assert metrics == {
        "perf/rollout_share": 0.25,
        "perf/train_share": 0.5,
        "perf/sync_share": 0.125,
        "perf/idle_share": 0.125,
    }
    assert all(describe(name) for name in metrics)


@pytest.mark.parametrize("device", ["NVIDIA H100 80GB HBM3", "a card of tomorrow"])
def test_on_gpus_mfu_is_both_branches_operations_over_their_peak(device: str) -> None:
    config = load_config(DEMO, [*GPUS, "model.dtype=bfloat16", "rollout.dtype=bfloat16"])
    record = bridge()
    batch = pack([TokenSample((1, 2), (3,) * 8, (0.0,) * 8, 1.0)] * 5, [], PackShape(1, 64))
    work = replace(record.joint.work, device=device)
    record = replace(
        record, batch=BranchBatch((batch,)), joint=replace(record.joint, work=work)
    )  # joint went over 50 tokens and the shadow over 20, forwards and backwards
    metrics = Throughput(config).of_step(record, TIMINGS)
    assert metrics["perf/tokens_per_gpu_s"] == pytest.approx(9 / 4.0 / 3)
    shape = shape_of(config.model.path)
    (micros,) = batch.rl
    flops = sum(3 * micro_batch_flops(shape, m) for m in micros)
    num_tokens = sum(m.num_tokens for m in micros)
    expected = flops * 70 / num_tokens / (2 * 989e12 * 2.0)
    assert metrics.get("perf/mfu") == (pytest.approx(expected) if "H100" in device else None)
    assert all(describe(name) for name in metrics)
