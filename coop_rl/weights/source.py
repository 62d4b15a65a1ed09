"""What is published: merged theta + s*B*A, tensor by tensor, in the engine's type.

The engines hold plain weights under the model's checkpoint names; w is merged on the way, so they
know nothing of it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from coop_rl.weights.buckets import TensorSpec

NUM_NCCL_BUFFERS, NCCL_BUFFER_BYTES = 2, 256 * 2**20
"""vLLM's NCCL sender packs weights into so many buffers in turn, of so many bytes each, on the
learner's device and on each worker's. Its own default is four times as large."""


class GatheredParameters(Protocol):
    """The learner's base weights theta, whole, whatever they are split over."""

    def metadata(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Return (checkpoint name, full shape) of each weight, without communication."""
        ...

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, full fp32 tensor) in the order of `metadata`, gathered layer by layer.

        Gathering is a collective: every rank of the learner iterates to the end.
        """
        ...


class MergingAdapter(Protocol):
    """The adapter w as an increment of the base weights."""

    def merge(self, name: str, theta_OI: torch.Tensor) -> torch.Tensor:
        """Return theta + s*B*A for the weight `name`, fp32; theta where w has no part."""
        ...


class MergedWeightSource:
    """The learner's weights as engines hold them: (name, (theta + s*B*A) in the wire type).

    Beside what `parameters` gathers at a time it holds one merged tensor.
    """

    def __init__(
        self,
        parameters: GatheredParameters,
        adapter: MergingAdapter | None,
        wire_dtype: torch.dtype,
    ) -> None:
        """Merge `adapter` (None: publish theta as it is) into `parameters`."""
        self._parameters = parameters
        self._adapter = adapter
        self._wire_dtype = wire_dtype

    def metadata(self) -> list[TensorSpec]:
        """Declare what iteration yields."""
        return [
            TensorSpec(name, self._wire_dtype, shape) for name, shape in self._parameters.metadata()
        ]

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, theta in self._parameters:
            # Added in fp32 and rounded once.
            merged = self._adapter.merge(name, theta) if self._adapter else theta
            yield name, merged.to(self._wire_dtype)


class DeclaredTensors(list[TensorSpec]):
    """What vLLM 0.33 reads as `metadata` and 0.32 calls as `metadata()`."""

    def __call__(self) -> list[TensorSpec]:
        """Return itself."""
        return self


class VllmSource:
    """The learner's weights in the terms of vLLM's NCCL sender, of 0.32 and of 0.33.

    0.32 iterates over the source, 0.33 over `iter_full()`. Neither asks for its own base class,
    which 0.33 lets no class of 0.32's kind inherit from.
    """

    def __init__(self, source: MergedWeightSource) -> None:
        """Hand on what `source` yields."""
        self._source = source
        self.metadata = DeclaredTensors(source.metadata())

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self._source)

    def iter_full(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight whole, a fresh pass each time."""
        return iter(self._source)

    def implements_iter_full(self) -> bool:
        """Say that `iter_full` is there."""
        return True
