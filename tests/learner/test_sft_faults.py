"""We are immune to the two faults of SFT behind published baselines, arXiv 2604.23747.

1. Under DeepSpeed's ZeRO 1 and 2 with its optimiser offload, gradients of all micro-batches but the
   last could be dropped. Here: a step cut into many micro-batches has the gradient of one cut into
   one, at ZeRO 1 and 2, on 1 and 2 ranks; DeepSpeed's own offload is never turned on.
2. A loss averaged per micro-batch or minibatch and then over these weighs tokens of short
   demonstrations more than those of long ones. Here: every token of a step weighs 1 / T_SFT.
"""

from dataclasses import replace

import pytest
import torch

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.learner.deepspeed_config import deepspeed_config
from coop_rl.types import Demonstration, PackedBatch
from tests.learner.engine_scenes import SFT_ALONE, Setup, build_local, sft_cut
from tests.learner.scenes import ENGINE, build_demonstrations
from tests.learner.worlds import LIMIT_OF_ALL_S, cases

ONE, MANY = 10_000, 1


@pytest.mark.timeout(LIMIT_OF_ALL_S)
@pytest.mark.parametrize(("world_size", "stage"), cases([1, 2], light=True))
def test_no_micro_batch_is_dropped_under_zero_1_and_2(recorded, world_size, stage) -> None:
    want = sft_cut(build_local)["one"]
    got = recorded[world_size][f"sft_cut-{stage}"]
    assert got["num_micros_one"] == 1
    assert got["num_micros_many"] == -(-5 // world_size)
    for cut in ("one", "many"):
        torch.testing.assert_close(got[cut], want, rtol=1e-4, atol=1e-6 * float(want.norm()))


def test_dropping_all_but_the_last_micro_batch_would_be_seen() -> None:
    """What the fault makes of the same step is another gradient."""
    batch = pack([], build_demonstrations(0), PackShape(1, MANY))
    (source,) = batch.sft
    last = replace(source, ranks=((source.ranks[0][-1],),))
    want, faulty = gradient_of(batch), gradient_of(replace(batch, sft=(last,)))
    assert float((faulty - want).norm()) > 0.1 * float(want.norm())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeeds_offload_is_never_turned_on(stage: int) -> None:
    config = deepspeed_config(replace(ENGINE, zero_stage=stage), 1000)
    assert not any("offload" in key for key in config["zero_optimization"])
    assert config["gradient_accumulation_steps"] == 1


def long_and_short() -> list[Demonstration]:
    """One long demonstration beside short ones."""
    shown = build_demonstrations(0)
    long = replace(shown[0], response_ids=shown[0].response_ids * 4)
    return [long, *(replace(d, response_ids=d.response_ids[:2]) for d in shown[1:])]


def gradient_of(batch: PackedBatch) -> torch.Tensor:
    learner = build_local(Setup())
    learner.compute(0, batch, SFT_ALONE, has_w=False)
    return torch.cat([part.flatten() for part in learner.engine.gradient_parts()])


def test_every_token_weighs_alike_whatever_the_micro_batch_it_lies_in() -> None:
    shown = long_and_short()
    whole = gradient_of(pack([], shown, PackShape(1, ONE)))
    cut = gradient_of(pack([], shown, PackShape(1, MANY)))
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6 * float(whole.norm()))
    alone = [gradient_of(pack([], [d], PackShape(1, ONE))) for d in shown]
    lengths = [len(d.response_ids) for d in shown]
    by_token = sum(n * g for n, g in zip(lengths, alone, strict=True)) / sum(lengths)
    torch.testing.assert_close(whole, by_token, rtol=1e-4, atol=1e-6 * float(whole.norm()))
    by_micro_batch = sum(alone) / len(alone)
    assert float((by_micro_batch - whole).norm()) > 0.1 * float(whole.norm())
