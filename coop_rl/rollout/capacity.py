"""What an engine takes on at once, where the config leaves that to the run and the machine."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from coop_rl.config import RunConfig
from coop_rl.config.schema import ServingConfig

MOST_SEQUENCES_CPU, MOST_SEQUENCES_GPU = 256, 512
"""More sequences at once make no more tokens a second, but longer steps."""
BLOCK_TOKENS = 128
"""vLLM's unit of the key-value cache on CPUs."""
MEMORY_SHARE = 0.25
"""Share of the memory that is free when an engine starts, for all engines' caches together."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of a value, by the type's name in the config."""


def sequences_at_once(config: ServingConfig) -> int:
    """Return `rollout.max_num_seqs`, or an engine's share of all samples that may be under way."""
    section = config.rollout
    if section.max_num_seqs is not None:
        return section.max_num_seqs
    most = MOST_SEQUENCES_GPU if config.placement.rollout.gpus else MOST_SEQUENCES_CPU
    if not isinstance(config, RunConfig):
        return most
    groups = -(-config.prompts.per_step * (1 + section.max_policy_lag) // section.min_actors)
    return min(most, groups * section.samples_per_prompt)


def kv_cache_bytes(config: ServingConfig, model: Any, free_bytes: int) -> int:
    """Return the size of a CPU engine's key-value cache.

    Args:
        config: `rollout.kv_cache_gib` if set; else room for every sequence at full length, and one
            more for what vLLM keeps back, as far as the memory allows.
        model: The transformers config of the model.
        free_bytes: Memory of the machine that nobody uses yet.
    """
    text: dict[str, Any] = model.get_text_config().to_dict()
    num_heads = text.get("num_key_value_heads") or text["num_attention_heads"]
    head_size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    values: int = 2 * text["num_hidden_layers"] * num_heads * head_size
    return cpu_cache_bytes(config, values, text["max_position_embeddings"], free_bytes)


def cpu_cache_bytes(config: ServingConfig, values: int, context: int, free_bytes: int) -> int:
    """Return the size of a CPU engine's key-value cache.

    Args:
        config: As for `kv_cache_bytes`.
        values: Cached values of a token.
        context: The model's longest sequence, in tokens.
        free_bytes: Memory of the machine that nobody uses yet.
    """
    if config.rollout.kv_cache_gib is not None:
        return int(config.rollout.kv_cache_gib * 2**30)
    length = config.model.max_length or context
    blocks = -(-length // BLOCK_TOKENS)
    sequence = blocks * BLOCK_TOKENS * values * BYTES[config.rollout.dtype]
    wanted = (sequences_at_once(config) + 1) * sequence
    share = int(free_bytes * MEMORY_SHARE / config.rollout.max_actors)
    return max(2 * sequence, min(wanted, share))


def free_memory() -> int:
    """Return the bytes that this machine, or the container's limit, still has."""
    free: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no limit reads `max`
        limit = int(CGROUP_LIMIT.read_text())
        used = int(CGROUP_LIMIT.with_name("memory.current").read_text())
        free = min(free, limit - used)
    return free
