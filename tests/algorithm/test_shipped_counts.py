"""Micro-batches of the shipped configs' steps: what a learner rank runs, and how full they are."""

import math
import random

import pytest

from coop_rl.algorithm.packing import PackShape, pack, useful_share
from coop_rl.config import RunConfig, load_config
from coop_rl.planning.shape import shape_of
from coop_rl.types import TokenSample
from tests.support.in_process import ROOT


def rollouts(config: RunConfig) -> list[TokenSample]:
    """A step's, with a long tail whose middle is a third of the limit."""
    draw, found = random.Random(0), []
    for number in range(config.prompts.per_step):
        prompt = (number + 1,) * draw.randint(80, 240)
        for _ in range(config.rollout.samples_per_prompt):
            middle, most = config.rollout.max_tokens / 3, config.rollout.max_tokens
            length = min(most, max(8, int(draw.lognormvariate(math.log(middle), 0.6))))
            found.append(TokenSample(prompt, (7,) * length, (-1.0,) * length, 1.0))
    return found


@pytest.mark.parametrize(
    ("name", "count", "bound"),
    [
        ("cluster/1-gpu", 16, 1.25),
        ("cluster/8-gpus", 3, 1.25),
        ("cluster/16-gpus", 2, 1.25),
        ("cluster/64-gpus", 4, 1.25),
        ("cluster/256-gpus", 2, 1.25),
        # 8,192 places hold few of these long answers: a quarter more would be 59.
        ("paper/qwen2.5-3b", 61, 1.3),
        ("paper/llama-3.2-3b-instruct", 61, 1.3),
        ("paper/qwen3-8b-base", 13, 1.25),
    ],
)
def test_passes_are_few_and_full(name: str, count: int, bound: float) -> None:
    config = load_config(ROOT / f"configs/{name}.yaml", [])
    shape = PackShape.from_config(config, hidden_size=shape_of(config.model.path).hidden)
    batch = pack(rollouts(config), [], shape)
    assert {len(rank) for rank in batch.rl} == {count}
    assert useful_share([batch]) > 0.9
    least = sum(m.num_tokens for rank in batch.rl for m in rank)
    assert count <= math.ceil(bound * least / shape.num_ranks / shape.micro_batch_tokens)


def test_a_cpu_keeps_its_costs() -> None:
    config = load_config(ROOT / "configs/local/demo.yaml", [])
    shape = PackShape.from_config(config, hidden_size=128)
    assert (shape.pass_cost, shape.layout) == (96, "trees")
