"""Tiny random models and batches shared by tests."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import RunConfig
from coop_rl.types import Demonstration, PackedBatch, TokenSample

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def tiny_model(kind: str = "qwen3", tied: bool = True, seed: int = 0) -> torch.nn.Module:
    """Return a random causal LM whose logits are far from uniform."""
    torch.manual_seed(seed)
    if kind == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=tied, **SIZES))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(tie_word_embeddings=tied, head_dim=8, **SIZES))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def save_tiny(folder: Path, kind: str = "qwen3", tied: bool = True, seed: int = 0) -> Path:
    """Write a tiny model as a Hugging Face folder."""
    tiny_model(kind, tied, seed).save_pretrained(folder)  # type: ignore[operator]
    return folder


def config_for(model: Path, **sections: Any) -> RunConfig:
    """Return a run config on a tiny model; sections override by name."""
    values: dict[str, Any] = {
        "run": {"name": "test", "num_steps": 10},
        "model": {"path": str(model)},
        "method": {"kind": "bridge", "mix": 0.5},
        "adapter": {"rank": 4, "alpha": 8, "lr": 1e-2},
        "prompts": {"path": "p"},
        "demonstrations": {"path": "d"},
        "evaluation": {"data": {"path": "h"}},
        "learner": {"lr": 1e-2, "zero_stage": 2},
    }
    for name, section in sections.items():
        values[name] = section if "kind" in section else {**values.get(name, {}), **section}
    return RunConfig.model_validate(values)


def random_samples(count: int = 12, seed: int = 0, truth: float = -2.0) -> list[TokenSample]:
    """Return rollouts with random lengths, including one of length 1."""
    g = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (size,), generator=g).tolist())

    samples = []
    for i in range(count):
        prompt, length = integers(2, 9, 1)[0], 1 if i == 0 else integers(1, 14, 1)[0]
        log_probs = truth + 0.2 * torch.randn(length, generator=g)
        advantage = float(torch.randn(1, generator=g))
        samples.append(
            TokenSample(
                integers(3, VOCABULARY, prompt),
                integers(3, VOCABULARY, length),
                tuple(log_probs.tolist()),
                advantage,
            )
        )
    return samples


def random_demonstrations(count: int = 7, seed: int = 1) -> list[Demonstration]:
    """Return demonstrations with random lengths."""
    samples = random_samples(count, seed)
    return [Demonstration(str(i), s.prompt_ids, s.response_ids) for i, s in enumerate(samples)]


def random_batch(num_ranks: int = 1, micro_batch_tokens: int = 64, seed: int = 0) -> PackedBatch:
    """Return a packed batch of both kinds."""
    shape = PackShape(num_ranks, micro_batch_tokens)
    return pack(random_samples(seed=seed), random_demonstrations(seed=seed + 1), shape)
