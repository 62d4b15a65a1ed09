"""How an engine's worker loads arriving weights: vLLM's layerwise reload; embeddings on their own.

A layerwise reload makes every layer anew, fills it, packs it for the kernels and gives the memory
back. On CPUs vLLM 0.32 does so with the embeddings as well, whose weights stay as they arrive; and
it packs a tied embedding for the head's matrix product once for each module, except after a reload,
when the head keeps the old one (log-probs are then off by 0.1 to 0.5 nats). There embeddings stay
out of it: they are overwritten in place, and packed once for all modules that share them.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch

from coop_rl.weights.buckets import TensorSpec

NamedTensors = list[tuple[str, torch.Tensor]]


class Reload:
    """One update of a model, ended by `finish` or `abandon`."""

    def __init__(self, model: torch.nn.Module, model_config: Any, device: torch.device) -> None:
        """Open a layerwise reload of what is not overwritten in place."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self._model = model
        self._model_config = model_config
        self._embeddings = plain_embeddings(model) if device.type == "cpu" else {}
        self._unpacked = {id(module.weight) for module in self._embeddings.values()}
        self._parts = list(parts_without(model, set(self._embeddings.values())))
        for part in self._parts:
            initialize_layerwise_reload(part)

    def memory_for(self, spec: TensorSpec) -> torch.Tensor | None:
        """Return the model's memory for a tensor that it holds whole, in the type it travels in."""
        module = self._embeddings.get(spec.name.removesuffix(".weight"))
        if module is None or module.tp_size > 1:
            return None
        weight = module.weight.detach()
        return weight if (weight.dtype, tuple(weight.shape)) == (spec.dtype, spec.shape) else None

    def load(self, arriving: Iterator[NamedTensors]) -> None:
        """Load what arrives, bucket by bucket."""
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        # One call for all buckets: each walks over the model's modules.
        with disable_mtp_completeness_check():
            loader: Any = self._model
            loader.load_weights(self._not_in_place(arriving))

    def finish(self) -> None:
        """Close the reload."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        for part in self._parts:
            finalize_layerwise_reload(part, self._model_config)
        for module in self._embeddings.values():
            self._pack(module)

    def abandon(self) -> None:
        """Forget what arrived for unfinished layers and give those their old weights back.

        Every layer is then whole, old or new, but an embedding that was overwritten in place; the
        engine stays paused until an update succeeds. That one starts clean: leftovers would be
        counted with its tensors, and layers closed before theirs have all arrived.
        """
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        for layer in self._model.modules():
            info = get_layerwise_info(layer)
            info.loaded_weights.clear()
            info.load_numel = 0
        self.finish()

    def _not_in_place(self, arriving: Iterator[NamedTensors]) -> Iterator[tuple[str, torch.Tensor]]:
        for tensors in arriving:
            for name, tensor in tensors:
                module = self._embeddings.get(name.removesuffix(".weight"))
                if module is not None and tensor.data_ptr() == module.weight.data_ptr():
                    # At once: meanwhile the next bucket arrives.
                    self._pack(module)
                else:
                    yield name, tensor
            # A name holds the bucket's memory while the next one is waited for.
            del tensors, tensor

    def _pack(self, embedding: Any) -> None:
        """Pack an embedding anew for the matrix product of the modules that share its weight."""
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        weight = embedding.weight
        if id(weight) not in self._unpacked:
            return
        self._unpacked.remove(id(weight))
        sharing = [m for m in self._embeddings.values() if m.weight is weight]
        # The old ones go first: each is as large as the weight.
        packed = [vars(module).pop("cpu_linear", None) is not None for module in sharing]
        linear = None
        for module in (m for m, had_one in zip(sharing, packed, strict=True) if had_one):
            if linear is None or "bias" in dict(module.named_parameters(recurse=False)):
                dispatch_cpu_unquantized_gemm(module, remove_weight=False)
                linear = module.cpu_linear
            else:
                module.cpu_linear = linear


def plain_embeddings(model: torch.nn.Module) -> dict[str, Any]:
    """Return the model's embeddings and heads that hold their weight as it is, by module name."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        UnquantizedEmbeddingMethod,
        VocabParallelEmbedding,
    )

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, VocabParallelEmbedding)
        and type(module.quant_method) is UnquantizedEmbeddingMethod
    }


def parts_without(
    module: torch.nn.Module, excluded: Collection[torch.nn.Module]
) -> Iterable[torch.nn.Module]:
    """Yield the largest parts of `module` that hold none of `excluded`."""
    if module in excluded:
        return
    if any(inner in excluded for inner in module.modules()):
        for child in module.children():
            yield from parts_without(child, excluded)
    else:
        yield module
