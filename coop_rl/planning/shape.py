"""The sizes of a model that memory and time follow from, without its weights."""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from coop_rl.data.model_folder import local_folder
from coop_rl.errors import ModelError, first_line

KNOWN = Path(__file__).with_name("known_models.json")
"""Published sizes of models that shipped configs name, for where the hub cannot be asked."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder of the Llama kind: RMSNorm, grouped-query attention, gated MLP."""

    num_layers: int
    hidden: int
    intermediate: int
    vocab: int
    query: int
    """Width of all query heads together."""
    key: int
    """Width of all key heads together, which is that of the values."""
    num_heads: int
    context: int
    is_tied: bool
    """Whether the output layer is the embedding."""

    @property
    def layer_params(self) -> int:
        """Weights of one layer, norms and biases left out (below 0.1 %)."""
        attention = self.hidden * (2 * self.query + 2 * self.key)
        return attention + 3 * self.hidden * self.intermediate

    def small_params(self, threshold: int) -> float:
        """Return the weights in layers' matrices of at most `threshold` values each."""
        matrices = [self.hidden * self.query] * 2 + [self.hidden * self.key] * 2
        matrices += [self.hidden * self.intermediate] * 3
        return float(self.num_layers * sum(size for size in matrices if size <= threshold))

    @property
    def embedding_params(self) -> int:
        """Weights of the embedding, which is the largest weight."""
        return self.vocab * self.hidden

    @property
    def num_params(self) -> int:
        """All weights."""
        tables = 1 if self.is_tied else 2
        return self.num_layers * self.layer_params + tables * self.embedding_params

    def adapter_params(self, rank: int, targets: tuple[str, ...]) -> int:
        """Return the size of w: A and B of every adapted layer."""
        sizes = {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key),
            "v_proj": (self.hidden, self.key),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }
        return self.num_layers * rank * sum(sum(sizes[name]) for name in targets if name in sizes)


def shape_of(path: str) -> ModelShape:
    """Read a model's sizes: from its folder, from KNOWN, else from the hub.

    Raises:
        ModelError: There is no such model, or it is of another kind.
    """
    text = config_of(path).get_text_config()
    try:
        num_heads = text.num_attention_heads
        sizes = text.to_dict()
        head = sizes.get("head_dim") or text.hidden_size // num_heads
        return ModelShape(
            num_layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            vocab=text.vocab_size,
            query=num_heads * head,
            key=(sizes.get("num_key_value_heads") or num_heads) * head,
            num_heads=num_heads,
            context=text.max_position_embeddings,
            is_tied=bool(text.tie_word_embeddings),
        )
    except AttributeError as error:
        raise ModelError(
            f"plan knows decoders of the Llama kind, {path} is a {text.model_type}: {error}"
        ) from None


def config_of(path: str) -> PretrainedConfig:
    """Return a model's config: from its folder, from KNOWN, else from the hub.

    Raises:
        ModelError: There is no such model.
    """
    known = json.loads(KNOWN.read_text())
    if local_folder(path) is None and path in known:
        return AutoConfig.for_model(**known[path])
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise ModelError(
            f"plan cannot read the sizes of {path}: {reason}; give a model folder, or one of "
            f"{', '.join(known)}"
        ) from None
