"""What vLLM is started with, and what a request is given; by device. Imports no vllm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from coop_rl.config.schema import ServingConfig
from coop_rl.rollout.capacity import free_memory, kv_cache_bytes, sequences_at_once
from coop_rl.types import SamplingSettings
from coop_rl.weights.receipt import EXTENSION

UNIPROC = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Runs the model in the engine core itself."""
LARGE_DEVICE_GIB = 70
BATCHED_TOKENS, BATCHED_TOKENS_LARGE = 8_192, 16_384
"""Most tokens of a scheduling step, by the device: vLLM's own figures for offline use (an A100
counts as small). An engine that is asked one request at a time would get those for a server, 2,048,
which keep the first token early and prefill slow."""
CAPTURED_SEQUENCES = 512
"""vLLM captures graphs for up to as many sequences by itself."""
INCOMPLETE = "�"
"""What a decoder writes for bytes that are no whole character."""


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """The GPU an engine runs on."""

    name: str
    memory_gib: float

    @property
    def batched_tokens(self) -> int:
        """Most tokens of a scheduling step."""
        is_large = self.memory_gib >= LARGE_DEVICE_GIB and "a100" not in self.name.lower()
        return BATCHED_TOKENS_LARGE if is_large else BATCHED_TOKENS


class Decoder(Protocol):
    """A tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of tokens."""
        ...


def engine_arguments(config: ServingConfig, device: EngineDevice | None) -> dict[str, Any]:
    """Return what vLLM is started with, but for how weights arrive; `device` None: on CPUs."""
    section, model = config.rollout, config.model
    num_sequences = sequences_at_once(config)
    is_eager = device is None if section.enforce_eager is None else section.enforce_eager
    arguments: dict[str, Any] = {
        "model": model.path,
        "trust_remote_code": False,
        "dtype": section.dtype,
        "max_model_len": model.max_length,
        "max_num_seqs": num_sequences,
        "tensor_parallel_size": section.tensor_parallel_size,
        "enforce_eager": is_eager,
        "enable_prefix_caching": section.prefix_caching,
        "seed": 0,  # every sample has a seed of its own
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": EXTENSION,
        "disable_log_stats": True,
    }
    arguments |= _on_cpu(config) if device is None else _on_gpu(config, device)
    if device and not is_eager and num_sequences > CAPTURED_SEQUENCES:
        arguments["max_cudagraph_capture_size"] = num_sequences
    if section.tensor_parallel_size > 1:
        # Left to itself vLLM takes ray in a placement group, and then a bundle for each worker.
        arguments["distributed_executor_backend"] = "mp"
    return arguments


def _on_gpu(config: ServingConfig, device: EngineDevice) -> dict[str, Any]:
    is_colocated = config.placement.colocated
    return {
        "gpu_memory_utilization": config.rollout.gpu_memory_utilization,
        "max_num_batched_tokens": max(device.batched_tokens, sequences_at_once(config)),
        "enable_sleep_mode": is_colocated,
        # Else graphs keep their memory while the engine sleeps.
        "sleep_mode_offload_cudagraph": is_colocated,
    }


def _on_cpu(config: ServingConfig) -> dict[str, Any]:
    from transformers import AutoConfig

    facts = AutoConfig.from_pretrained(config.model.path, trust_remote_code=False)
    arguments: dict[str, Any] = {
        "kv_cache_memory_bytes": kv_cache_bytes(config, facts, free_memory()),
        # A prompt prefilled in parts makes vLLM 0.32 take back a random number, which generators
        # on the CPU cannot: the engine dies. So prompts are prefilled whole.
        "enable_chunked_prefill": False,
    }
    if config.rollout.tensor_parallel_size == 1:
        # By its name "uni", vLLM takes a worker process on CPUs all the same, to give it another
        # number of threads; ours have theirs from the start.
        arguments["distributed_executor_backend"] = UNIPROC
    return arguments


def request_arguments(sampling: SamplingSettings, max_tokens: int, seed: int) -> dict[str, Any]:
    """Return vLLM's settings of one response, but for the kind of its output."""
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": max_tokens,
        "seed": seed if sampling.temperature else None,
        # The sampled token's own log-prob and no alternatives, as numbers without objects.
        "logprobs": 0,
        "flat_logprobs": True,
        # `decoded` does it at the end, in one go.
        "detokenize": False,
    }


def decoded(tokenizer: Decoder, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """Return the text that decoding token by token behind the prompt would give.

    Tokens at the end that are not yet a whole character have no text.

    Args:
        tokenizer: The model's.
        prompt_ids: What the response follows: some tokenizers write a space by what is before it.
        response_ids: The response, without the token that stopped it.
    """
    prompt, response = list(prompt_ids), list(response_ids)
    before = tokenizer.decode(prompt, skip_special_tokens=True).rstrip(INCOMPLETE)
    text = tokenizer.decode(prompt + response, skip_special_tokens=True)
    while response and text.endswith(INCOMPLETE):
        response.pop()
        text = tokenizer.decode(prompt + response, skip_special_tokens=True)
    return text[len(before) :]
