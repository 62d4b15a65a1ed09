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
small weights stay whole. What a pass adds are activations and logits. A GPU also holds what no
tensor of ours is: each process's context, NCCL's buffers. Those figures are assumed, not measured.
"""

from dataclasses import dataclass

from coop_rl.config import RunConfig
from coop_rl.config.sizes import (
    has_adapter,
    has_one_step_shadow,
    has_second_optimizer,
    has_shadow,
    learns_by_lookahead,
    may_share_device,
    num_sources,
    weight_backend,
    writes_beside,
    zero_stage,
)
from coop_rl.learner.deepspeed_config import reduce_bucket
from coop_rl.learner.engine import PERSISTENCE_THRESHOLD_VALUES
from coop_rl.planning.shape import ModelShape
from coop_rl.rollout.capacity import BYTES
from coop_rl.weights.source import NCCL_BUFFER_BYTES, NUM_NCCL_BUFFERS
from coop_rl.weights.wire import PIECE_BYTES

GIB = 2**30
CONTEXT_BYTES = 0.5 * GIB
"""A process's CUDA context, its modules and cuBLAS's workspaces; assumed."""
COMMUNICATOR_BYTES = 0.25 * GIB
"""NCCL's own buffers of one communicator; assumed."""
GATHERED_VALUES = 1_050_000_000
"""Most weights that ZeRO-3 leaves gathered on a GPU: `stage3_max_live_parameters` and what is
prefetched, both at DeepSpeed's defaults."""
BETWEEN_STEPS = (
    "weights", "masters", "AdamW", "kept whole", "guidance w", "pi_ref", "look-ahead",
    "CUDA context", "NCCL",
)  # fmt: skip
"""What a learner holds while others have their turn."""
FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What one device holds for one actor."""

    parts: dict[str, float]
    """Bytes by part, at the peak of a step."""
    starting: float = 0.0
    """Bytes at the peak of the start, before there is anything of a step."""

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return max(self.starting, sum(self.parts.values()))

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
    is_on_gpu = config.placement.learner.gpus > 0
    if stage == 3 and ranks > 1:
        at_work = shape.layer_params + shape.embedding_params
        # On CPUs weights are let go of at once: nothing is gathered ahead.
        parts["gathered"] = compute * float(min(size, GATHERED_VALUES) if is_on_gpu else at_work)
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
    if compute < FP32_BYTES:
        # Summed over chunks in fp32.
        parts["head's gradient"] = FP32_BYTES * float(shape.embedding_params)
    if is_on_gpu:
        parts |= _device_parts(config, ranks)
    elif writes_beside(config):
        parts["checkpoint on its way"] = 3 * FP32_BYTES * own
    if config.learner.offload and config.placement.learner.gpus:
        passes = parts["activations"] + parts["logits"]
        parts["AdamW beyond them"] = max(0.0, parts.pop("AdamW") - passes)
    return MemoryPlan(parts, starting_bytes(config, shape, ranks))


def _device_parts(config: RunConfig, ranks: int) -> dict[str, float]:
    """Return what a learner's process holds of a GPU beside tensors."""
    is_sender = weight_backend(config) == "nccl"
    # Between the ranks; and to the engines, with the buffers that are filled and sent in turn, each
    # beside the tensors it is packed from.
    num_communicators = int(ranks > 1) + is_sender
    buffers = 2 * NUM_NCCL_BUFFERS * NCCL_BUFFER_BYTES if is_sender else 0
    parts = {"CUDA context": CONTEXT_BYTES}
    if may_share_device(config, config.placement.rollout):
        # What engines see, what is filled for it, and what is merged meanwhile.
        parts["weights on their way"] = 3.0 * PIECE_BYTES["cuda"]
    if num_communicators:
        parts["NCCL"] = num_communicators * COMMUNICATOR_BYTES + buffers
    return parts


def starting_bytes(config: RunConfig, shape: ModelShape, ranks: int | None = None) -> float:
    """Return the peak of a learner rank while it starts, on its device.

    At stage 3 the weights arrive one by one: a rank's parts, and of the largest weight what was
    read and what is cut from it. Then DeepSpeed makes the masters: at stage 3 also its own copy of
    the gradients and the bucket they are reduced in; at 1 and 2 a gradient of the masters that it
    lets go of again. The moments come with the first step.
    """
    ranks = ranks or config.learner.num_ranks
    stage, compute = zero_stage(config, ranks), BYTES[config.model.dtype]
    size, own = shape.num_params, shape.num_params / ranks
    context = CONTEXT_BYTES if config.placement.learner.gpus else 0.0
    if stage == 3:
        loading = compute * (own + 2 * shape.embedding_params)
        made = (compute + 2 * FP32_BYTES) * own + compute * reduce_bucket(size)
        return context + max(loading, made)
    if stage:
        masters = 2 * FP32_BYTES * own
        # On a CPU the weights are copied into one flat piece beside themselves.
        masters = masters if config.placement.learner.gpus else max(masters, compute * size)
    else:
        masters = float((compute < FP32_BYTES) * FP32_BYTES * size)
    return context + compute * size + masters


def checkpoint_bytes(config: RunConfig, shape: ModelShape) -> float:
    """Return the size of one checkpoint, all ranks together, however they cut it.

    Each branch's masters, moments and w; w's own moments; what joint keeps of an update for
    guidance, its shadow of one step, its second AdamW state. With a lag the responses that wait to
    be trained come on top, 16 bytes a token.
    """
    branches = 2 if has_shadow(config) else 1
    vectors = 3 * branches + 3 * has_one_step_shadow(config)
    if learns_by_lookahead(config):
        vectors += 1 + num_sources(config) + 2 * config.meta.per_example
    if has_second_optimizer(config):
        vectors += 2
    size = float(FP32_BYTES) * vectors * shape.num_params
    if has_adapter(config):
        rank, targets = config.adapter.rank, tuple(config.adapter.targets)
        size += (branches + 3) * FP32_BYTES * shape.adapter_params(rank, targets)
    return size


def num_checkpoints(config: RunConfig) -> int:
    """Return how many lie on the disk at once, the one that is being written included."""
    return config.checkpoint.keep + 1 + (config.checkpoint.best is not None)


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
ASLEEP_BYTES = 1.3 * GIB
"""What a sleeping engine keeps of its device; others measured 1.27 GiB for a model of 0.67 GiB."""


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
