"""Bytes per device, by part, as DeepSpeed and vLLM keep them (checked: tests/planning).

With N weights, R ranks, c bytes a value of the compute type (2 or 4), per learner rank:

| ZeRO | weights | masters | gradients | AdamW |
|---|---|---|---|---|
| 0 (fp32) | 4N | the weights | 4N | 8N |
| 0 (bf16) | 2N | 4N | 4N | 8N |
| 1 (fp32) | 4N | 4N/R | 4N | 8N/R |
| 2 | cN | 4N/R | 4N/R | 8N/R |
| 3 | cN/R | 4N/R | 4N/R | 8N/R |

A stage >= 1 reduces gradients in a bucket of its own; at stage 3 the layer at work is gathered, and
small weights stay whole. What a pass adds are activations and logits.
"""

from dataclasses import dataclass

from coop_rl.config import RunConfig
from coop_rl.config.sizes import (
    has_adapter,
    has_one_step_shadow,
    learns_by_lookahead,
    num_sources,
    zero_stage,
)
from coop_rl.learner.deepspeed_config import reduce_bucket
from coop_rl.learner.engine import PERSISTENCE_THRESHOLD_VALUES
from coop_rl.planning.shape import ModelShape
from coop_rl.rollout.capacity import BYTES

GIB = 2**30
BETWEEN_STEPS = ("weights", "masters", "AdamW", "kept whole", "guidance w", "pi_ref", "look-ahead")
"""What a learner holds while others have their turn."""
FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one device holds for one actor."""

    parts: dict[str, float]
    """Bytes by part."""

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def resting(self) -> float:
        """Bytes between steps."""
        return sum(size for name, size in self.parts.items() if name in BETWEEN_STEPS)


def learner_memory(
    config: RunConfig, shape: ModelShape, ranks: int | None = None, tokens: int | None = None
) -> MemoryPlan:
    """Return the peak of one rank of `joint`, or of `shadow`, which is built alike.

    With `learner.offload` AdamW's moments come onto a GPU when activations and logits are gone: the
    larger of both counts. Left out: `shadow.offload`, which spares one branch only, and the second
    AdamW state that `relift`, and `cold_start` with `fresh_optimizer`, keep.

    Args:
        config: The run's config.
        shape: Sizes of the base model.
        ranks: Ranks of the group; None: the config's.
        tokens: Tokens of the largest micro-batch; None: what the config allows.
    """
    ranks = ranks or config.learner.num_ranks
    stage, compute = zero_stage(config, ranks), BYTES[config.model.dtype]
    size, own = shape.num_params, shape.num_params / ranks
    parts = {
        "weights": compute * (own if stage == 3 else size),
        "masters": FP32_BYTES * own if stage else float((compute < FP32_BYTES) * FP32_BYTES * size),
        "gradients": FP32_BYTES * (own if stage >= 2 else size),
        "AdamW": 2 * FP32_BYTES * (own if stage else size),
    }
    if stage:
        parts["reduction"] = compute * float(reduce_bucket(size))
    if stage == 3 and ranks > 1:
        parts["gathered"] = compute * (shape.layer_params + shape.embedding_params)
    if stage == 3:
        parts["kept whole"] = compute * shape.small_params(PERSISTENCE_THRESHOLD_VALUES)
    if has_adapter(config):
        rank, targets = config.adapter.rank, tuple(config.adapter.targets)
        parts["guidance w"] = 2 * FP32_BYTES * shape.adapter_params(rank, targets)
    if config.method.rl_settings.kl.weight > 0:
        parts["pi_ref"] = compute * float(size)
    if is_lookahead := learns_by_lookahead(config):
        parts["look-ahead"] = (1 + num_sources(config)) * FP32_BYTES * own
    if is_beside := has_one_step_shadow(config):
        parts["one-step shadow"] = 3 * FP32_BYTES * own
    if is_lookahead or is_beside or config.learner.grad_stats_every:
        has_sft = config.method.demonstrations != "none"
        copies = config.method.samples + has_sft * num_sources(config)
        parts["gradient statistics"] = copies * FP32_BYTES * own
    tokens = tokens or min(config.learner.micro_batch_tokens, tokens_per_rank(config, shape, ranks))
    parts["activations"] = activation_bytes(shape, tokens, compute, config)
    parts["logits"] = logits_bytes(config, shape, tokens)
    if config.learner.offload and config.placement.learner.gpus:
        passes = parts["activations"] + parts["logits"]
        parts["AdamW beyond them"] = max(0.0, parts.pop("AdamW") - passes)
    return MemoryPlan(parts)


def longest_sequence(config: RunConfig, shape: ModelShape) -> int:
    """Return the tokens of prompt and response together, at most."""
    return min(config.model.max_length or shape.context, shape.context)


def tokens_per_rank(config: RunConfig, shape: ModelShape, ranks: int) -> int:
    """Return the tokens of a rank's largest phase, each sequence at its full length."""
    length = longest_sequence(config, shape)
    samples = config.prompts.per_step * config.rollout.samples_per_prompt
    return max(length, -(-samples * length // ranks // config.learner.num_minibatches))


def activation_bytes(shape: ModelShape, tokens: int, compute: int, config: RunConfig) -> float:
    """Return what the layers keep for the backward pass.

    A layer of transformers' Llama kind keeps, for each token: of each of two norms the input in
    fp32 and the scaled input twice (fp32, compute type); queries, keys and values (the latter
    repeated for every query head), the output of attention; four values of the gated MLP. With
    activation checkpointing only the layers' inputs stay, and one layer's own while it is computed.
    """
    norms = 2 * shape.hidden * (2 * FP32_BYTES + compute)
    attention = compute * (4 * shape.query)
    mlp = compute * 4 * shape.intermediate
    layer = norms + attention + mlp
    if config.learner.activation_checkpointing:
        return float(tokens * (shape.num_layers * compute * shape.hidden + layer))
    return float(tokens * shape.num_layers * layer)


def logits_bytes(config: RunConfig, shape: ModelShape, tokens: int) -> float:
    """Return the memory of vocabulary logits, and of the chunk that is computed beside them."""
    return min(2.0 * FP32_BYTES * tokens * shape.vocab, 2 * config.learner.logits_gib * GIB)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What one device holds for one rollout engine."""

    weights: float
    sequence: float
    """Bytes of the key-value cache of one sequence at full length."""

    def cache(self, device_bytes: float, share: float) -> float:
        """Return the bytes left for the cache of the share of the device that vLLM may take."""
        return device_bytes * share - self.weights - ENGINE_OVERHEAD_BYTES


ENGINE_OVERHEAD_BYTES = 2 * GIB
"""vLLM's context, workspaces and activations on a GPU; an assumption."""


def engine_memory(config: RunConfig, shape: ModelShape, parallel: int | None = None) -> EnginePlan:
    """Return what an engine's device holds."""
    section = config.rollout
    parallel = parallel or section.tensor_parallel_size
    value = BYTES[section.dtype]
    length = longest_sequence(config, shape)
    return EnginePlan(
        value * shape.num_params / parallel,
        2.0 * shape.num_layers * shape.key * length * value / parallel,
    )
