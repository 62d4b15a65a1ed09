"""Random Qwen3 models of a few thousand parameters, and micro-batches for them."""

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from coop_rl.algorithm.lanes import BatchRow, Tree, lay_out
from coop_rl.types import TokenGrid

VOCABULARY = 37
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_model(seed: int = 0, *, is_tied: bool = True, scale: float = 0.3) -> Qwen3ForCausalLM:
    """Build a 2-layer model, fp32; `scale` makes its distributions far from uniform."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=is_tied,
        initializer_range=scale,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).float()


def save_tiny(folder: Path, *, is_tied: bool = True) -> str:
    """Save one as a Hugging Face folder."""
    tiny_model(is_tied=is_tied).save_pretrained(folder)
    return str(folder)


def random_rows(
    num_rows: int = 4, longest: int = 14, seed: int = 1
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return (prompt ids, response ids) of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    rows = []
    for _ in range(num_rows):
        prompt = tuple(draw(1, VOCABULARY) for _ in range(draw(1, 5)))
        response = tuple(draw(1, VOCABULARY) for _ in range(draw(2, longest - 4)))
        rows.append((prompt, response))
    return rows


def to_grid(rows: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> TokenGrid:
    """Return a grid with a lane for each row."""
    lanes = [[Tree((BatchRow(i, *row),))] for i, row in enumerate(rows)]
    return lay_out(lanes).grid
