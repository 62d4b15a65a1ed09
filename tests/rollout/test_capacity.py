from pathlib import Path

import pytest
from transformers import Qwen3Config

from coop_rl.config import load_config
from coop_rl.rollout.capacity import free_memory, kv_cache_bytes, sequences_at_once

DEMO = Path("configs/local/demo.yaml")
GIB = 2**30
MODEL = Qwen3Config(
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    hidden_size=128,
    max_position_embeddings=300,
)
SEQUENCE = 128 * 2 * 4 * 2 * 32 * 4
"""Bytes of a block of 128 tokens: keys and values, 4 layers, 2 heads of 32 values, fp32."""


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), 32 * 8),
        (("prompts.per_step=8",), 8 * 8),
        (("prompts.per_step=8", "rollout.num_actors=3"), 3 * 8),
        (("prompts.per_step=8", "rollout.max_policy_lag=1", "method.kind=rl"), 2 * 8 * 8),
        (("prompts.per_step=512",), 256),
        (("prompts.per_step=512", "placement.rollout.gpus=1"), 512),
        (("rollout.max_num_seqs=7",), 7),
    ],
)
def test_sequences_are_the_samples_under_way_up_to_a_limit(overrides, expected) -> None:
    assert sequences_at_once(load_config(DEMO, overrides)) == expected


def test_cache_holds_every_sequence_at_full_length() -> None:
    config = load_config(DEMO, ["prompts.per_step=8", "model.max_length=128"])
    assert kv_cache_bytes(config, MODEL, 100 * GIB) == (64 + 1) * SEQUENCE
    longer = load_config(DEMO, ["prompts.per_step=8", "model.max_length=129"])
    assert kv_cache_bytes(longer, MODEL, 100 * GIB) == 2 * (64 + 1) * SEQUENCE
    models_own = load_config(DEMO, ["prompts.per_step=8"])
    assert models_own.model.max_length is None
    assert kv_cache_bytes(models_own, MODEL, 100 * GIB) == 3 * (64 + 1) * SEQUENCE


def test_cache_takes_a_quarter_of_the_memory_at_most() -> None:
    two = load_config(DEMO, ["prompts.per_step=64", "rollout.num_actors=2", "model.max_length=128"])
    free = 100 * SEQUENCE * 4 * 2
    assert kv_cache_bytes(two, MODEL, free) == 100 * SEQUENCE
    assert kv_cache_bytes(two, MODEL, 0) == 2 * SEQUENCE
    given = load_config(DEMO, ["rollout.kv_cache_gib=0.5"])
    assert kv_cache_bytes(given, MODEL, 0) == GIB // 2


def test_free_memory_is_that_of_this_machine() -> None:
    assert 2**20 < free_memory() < 2**50
