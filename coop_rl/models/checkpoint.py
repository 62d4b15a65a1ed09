"""The weights of a Hugging Face folder, one at a time, for a model that was built without them."""

from typing import Self

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from coop_rl.models.loading import model_error
from coop_rl.models.policy import checkpoint_name

Places = list[tuple[nn.Module, str, str]]
"""(module, attribute, checkpoint name) of a weight; a tied one has several, the head's as well."""


def places_of(model: nn.Module) -> dict[nn.Parameter, Places]:
    """Return where each weight of a policy, or of its causal LM, is."""
    places: dict[nn.Parameter, Places] = {}
    for prefix, module in model.named_modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                known = checkpoint_name(f"{prefix}.{name}")
                places.setdefault(weight, []).append((module, name, known))
    return places


class CheckpointWeights:
    """What the safetensors of a folder hold."""

    def __init__(self, files: dict[str, str]) -> None:
        """Hold (weight, file that it is in)."""
        self._files = files

    @classmethod
    def open(cls, path: str) -> Self:
        """Look into a folder, or a hub id.

        Raises:
            ModelError: It holds no safetensors.
        """
        try:
            index = cached_file(
                path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False
            )
            if index is None:
                shards = [cached_file(path, "model.safetensors")]
            else:
                shards, _ = get_checkpoint_shard_files(path, index)
        except (OSError, ValueError) as error:
            raise model_error(path, error) from error
        files: dict[str, str] = {}
        for shard in shards:
            with safe_open(shard, framework="pt") as opened:
                files |= dict.fromkeys(opened.keys(), shard)
        return cls(files)

    def cover(self, model: nn.Module) -> bool:
        """Whether every weight of `model` is there under the model's own name for it."""
        every = places_of(model).values()
        return all(any(name in self._files for _, _, name in places) for places in every)

    def read(self, places: Places) -> torch.Tensor:
        """Return a weight, in host memory."""
        name = next(name for _, _, name in places if name in self._files)
        with safe_open(self._files[name], framework="pt") as opened:
            weight: torch.Tensor = opened.get_tensor(name)
            return weight
