"""What is published: merged theta + s*B*A, tensor by tensor, in the engine's type.

The engines hold plain weights under the model's checkpoint names; w is merged on the way, so they
know nothing of it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from coop_rl.weights.buckets import TensorSpec


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
