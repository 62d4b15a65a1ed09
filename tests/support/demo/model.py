"""The demo model: a Qwen3 of 0.8 M parameters and a tokenizer with one token per character.

`train_base.py` builds and saves both; everything else loads the folder through transformers or
vLLM like any other model.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
PAD_ID, EOS_ID, BOS_ID, _ = range(len(SPECIAL_TOKENS))
CHARACTERS = (*map(chr, range(32, 127)), "\n")
MAX_POSITIONS = 256
# 100 tokens, padded so that the embedding can be cut evenly over ranks.
PADDED_VOCABULARY_SIZE = 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: one token per character, and no special tokens added to a text."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_model() -> Qwen3ForCausalLM:
    """Build the model with fresh fp32 weights drawn from torch's global generator."""
    config = Qwen3Config(
        vocab_size=PADDED_VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        rope_theta=10_000.0,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=BOS_ID,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=PAD_ID, eos_token_id=EOS_ID, bos_token_id=BOS_ID, do_sample=True
    )
    return model.float()


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save weights in bf16, which halves the folder, and the tokenizer.

    The weights are rounded in place first, so what is measured afterwards is what was saved.
    """
    model.to(torch.bfloat16).save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def complete(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    is_greedy: bool,
) -> list[str]:
    """Complete each prompt once, greedily or by sampling at temperature 1."""
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
    sequences = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=not is_greedy,
            # Off: transformers would otherwise cut the distribution to its 50 likeliest tokens.
            top_k=None if is_greedy else 0,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
        ),
    )
    responses = sequences[:, encoded["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(responses, skip_special_tokens=True)
    return texts
