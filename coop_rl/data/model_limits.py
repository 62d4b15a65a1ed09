"""What config.json tells of a model that learners would train wrongly: refused before they start.

A lane holds several sequences, and its mask says who sees whom within the whole lane. Models whose
layers see a window only, or carry a state along the lane, need the mask of their own that they make
for a lane of one sequence. Logits that are capped or scaled are no linear map of the last hidden
state, which `models.head` computes. Called by `commands.checks`.
"""

from collections.abc import Mapping
from typing import Any

from coop_rl.config import RunConfig
from coop_rl.config.method import LLAMA_LAYERS
from coop_rl.config.sizes import attention
from coop_rl.errors import ConfigError, ModelError

PLAIN_TYPES = ("llama", "qwen2", "qwen3")
"""Model types whose class in transformers adds no limit to what config.json says."""
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Keys of the tokens that a layer sees at most; a chunk ends sooner still."""
WINDOWED = ("sliding_attention", "chunked_attention", "hybrid_sliding", "window_attention")
STATEFUL = ("linear_attention", "mamba", "conv", "hybrid", "hybrid_sliding", "recurrent")
"""`layer_types` that see a window, and those that carry a state along a lane."""
NON_LINEAR_HEADS = (
    "final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier",
)  # fmt: skip
ATTENTION_CAP = "attn_logit_softcapping"
LONGEST_SHARED_TREE_TOKENS = 1024
"""The longest tree of several responses that `algorithm.packing` makes, longer than a micro-batch
where that is small."""


def refuse_untrainable(config: RunConfig, values: Mapping[str, Any]) -> None:
    """Refuse a model that this run's learners would compute otherwise than its own code does.

    Args:
        config: The run.
        values: The language model's part of config.json, what its class adds included.

    Raises:
        ModelError: Names the key, and what to change.
    """
    path, learner, kind = config.model.path, config.learner, attention(config)
    for key in NON_LINEAR_HEADS:
        if values.get(key) not in (None, 1, 1.0):
            raise ModelError(
                f"{path}: its config.json has {key} {values[key]}, but learners compute logits as "
                "a linear map of the last hidden state; choose another model.path"
            )
    if values.get(ATTENTION_CAP) and kind != "flash_attention_2":
        raise ModelError(
            f"{path}: its config.json has {ATTENTION_CAP} {values[ATTENTION_CAP]}, which "
            f"learner.attention {kind} leaves out; choose another model.path"
        )
    if (longest := longest_lane(config)) is None:
        return
    if state := sorted(set(_layer_types(values)) & set(STATEFUL)):
        raise ModelError(
            f"{path}: its config.json has layer_types {', '.join(state)}, which carry a state from "
            "one sequence of a lane to the next; set learner.packing padded"
        )
    if (found := smallest_window(values)) and found[1] < longest:
        key, window = found
        raise ModelError(
            f"{path}: by {key} of its config.json layers attend to {window} tokens, but lanes of "
            f"several sequences may have {longest} (learner.packing {learner.packing}, "
            f"learner.micro_batch_tokens {learner.micro_batch_tokens}); set learner.packing padded"
        )


def longest_lane(config: RunConfig) -> int | None:
    """Return the most tokens of a lane of several sequences that we mask; None: there is none.

    Variable-length attention knows the sequences, and applies the model's window to each.
    """
    learner = config.learner
    if learner.packing == "padded" or attention(config) != "sdpa":
        return None
    shared = LONGEST_SHARED_TREE_TOKENS if learner.packing == "trees" else 0
    return max(learner.micro_batch_tokens, shared)


def smallest_window(values: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the key and the tokens of the narrowest attention window; None: layers see all."""
    types = set(_layer_types(values))
    if types and not types & set(WINDOWED):
        return None
    if not values.get("use_sliding_window", True):
        return None
    # Qwen2's windows begin at a layer that it may not have.
    if not types and values.get("max_window_layers", 0) >= values.get("num_hidden_layers", 1):
        return None
    if "local" not in str(values.get("attention_types", "local")):  # GPT-Neo
        return None
    sizes = {key: values[key] for key in WINDOWS if isinstance(values.get(key), int)}
    return min(((k, n) for k, n in sizes.items() if n > 0), key=lambda one: one[1], default=None)


def refuse_other_targets(config: RunConfig, model_type: str | None) -> bool:
    """Refuse adapter targets that a model of a plain type lacks.

    Returns:
        Whether that settles it; False: its layers are known only from the model.

    Raises:
        ConfigError: A target is none of its linear layers.
    """
    if model_type not in PLAIN_TYPES:
        return False
    if missing := [name for name in config.adapter.targets if name not in LLAMA_LAYERS]:
        raise ConfigError(
            f"adapter.targets {', '.join(missing)} match no linear layer of the model; "
            f"allowed: {', '.join(sorted(LLAMA_LAYERS))}"
        )
    return True


def _layer_types(values: Mapping[str, Any]) -> list[str]:
    return [str(kind) for kind in values.get("layer_types") or ()]
