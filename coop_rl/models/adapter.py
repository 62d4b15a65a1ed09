r"""The guidance parameters w: LoRA factors on linear layers.

    o = W x + s * B (A x) = W' x,     s = alpha / rank,     merged weight  W' = W + s * B A

fp32 layers, which have w's type, compute with W' (`merged_linear`), bf16 layers with the sum: on
W's coarse grid a small s * B A would round to nothing.

w is leaf tensors outside the module's parameters, so that ZeRO neither partitions nor sees them:
their gradient is an ordinary `.grad`, and any ZeRO stage works. The meta-controller owns the
authoritative copy; learners hold replicas that `load_flat` overwrites.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from coop_rl.errors import ConfigError, VersionError
from coop_rl.models.merged_linear import MergedLinear

Shapes = Mapping[str, tuple[int, int]]
"""Layer name -> (out features, in features)."""


def adapter_shapes(model: nn.Module, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Return the linear layers of `model` (weights may be on meta) that get an adapter.

    Args:
        model: The causal LM; layer names are those of its checkpoint.
        targets: Last name components, e.g. `q_proj`.

    Raises:
        ConfigError: A target names no linear layer.
    """
    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    }
    found = {name.rpartition(".")[2] for name in shapes}
    if missing := [target for target in targets if target not in found]:
        linear = {
            n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)
        }
        raise ConfigError(
            f"adapter.targets {', '.join(missing)} match no linear layer of the model; "
            f"allowed: {', '.join(sorted(linear - {'lm_head'}))}"
        )
    return shapes


class Adapter:
    """w in fp32; the same seed and shapes give the same start everywhere."""

    def __init__(
        self,
        shapes: Shapes,
        *,
        rank: int,
        alpha: float,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Draw A (Kaiming uniform, as PEFT does) and set B to zero, so that s*B*A starts at 0.

        Args:
            shapes: The adapted layers.
            rank: R.
            alpha: Scale s is alpha / rank.
            seed: Seed of A.
            device: Where w lives; it is drawn on the CPU, so that its values do not depend on it.
            dtype: fp32, except in gradient checks.
        """
        self.is_on = True
        """Whether the layers compute with w, and `merge` adds it."""
        self.rank = rank
        self.alpha = alpha
        self.scale = alpha / rank
        self.shapes = dict(shapes)
        generator = torch.Generator().manual_seed(seed)
        self._tensors: dict[str, torch.Tensor] = {}
        for name, (num_out, num_in) in self.shapes.items():
            bound = 1.0 / math.sqrt(num_in)
            a_RI = (torch.rand(rank, num_in, generator=generator) * 2.0 - 1.0) * bound
            b_OR = torch.zeros(num_out, rank)
            for factor, value in (("lora_A", a_RI), ("lora_B", b_OR)):
                leaf = value.to(device=device, dtype=dtype).requires_grad_()
                self._tensors[f"{name}.{factor}"] = leaf

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The leaf tensors by name, e.g. `model.layers.0.self_attn.q_proj.lora_A`."""
        return self._tensors

    def numel(self) -> int:
        """Return the number of values in w."""
        return sum(tensor.numel() for tensor in self._tensors.values())

    def attach(self, model: nn.Module) -> None:
        """Let the layers of `model` (the causal LM) compute with w.

        Attach before a ZeRO engine wraps the model: the engine's hooks must see the changed layers.
        """
        modules = dict(model.named_modules())
        for name in self.shapes:
            layer = modules[name]
            assert isinstance(layer, nn.Linear)
            layer.forward = partial(self._forward, name, layer)  # type: ignore[method-assign]

    def _forward(self, name: str, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """Compute an adapted layer, merged where the layer's type holds w's part."""
        if not self.is_on:
            return nn.functional.linear(x, layer.weight, layer.bias)
        a_RI, b_OR = (self._tensors[f"{name}.{factor}"] for factor in ("lora_A", "lora_B"))
        if layer.weight.dtype == a_RI.dtype:
            merged: torch.Tensor = MergedLinear.apply(  # type: ignore[no-untyped-call]
                x, layer.weight, layer.bias, a_RI, b_OR, self.scale
            )
            return merged
        low_rank = nn.functional.linear(x, a_RI.to(x.dtype))
        part = nn.functional.linear(low_rank, b_OR.to(x.dtype))
        return nn.functional.linear(x, layer.weight, layer.bias) + self.scale * part

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Let layers and `merge` use w, where they otherwise do not."""
        was_on, self.is_on = self.is_on, True
        try:
            yield
        finally:
            self.is_on = was_on

    @torch.no_grad()
    def merge(self, name: str, theta_OI: torch.Tensor) -> torch.Tensor:
        """Return theta + s*B*A for the weight `name`; theta where w has no part or is off.

        One pass over the weight: the product is added as it is computed.
        """
        layer = name.removesuffix(".weight")
        if layer not in self.shapes or not self.is_on:
            return theta_OI
        b_OR, a_RI = (
            self._tensors[f"{layer}.{factor}"].to(theta_OI.device)
            for factor in ("lora_B", "lora_A")
        )
        return torch.addmm(theta_OI, b_OR, a_RI, alpha=self.scale)

    @torch.no_grad()
    def flatten(self) -> torch.Tensor:
        """Return a copy of w as one vector, in the order of `tensors`."""
        return torch.cat([tensor.reshape(-1) for tensor in self._tensors.values()])

    @torch.no_grad()
    def load_flat(self, vector: torch.Tensor) -> None:
        """Overwrite w with what `flatten` returned elsewhere.

        Raises:
            VersionError: The vector has another length.
        """
        if vector.numel() != self.numel():
            raise VersionError(
                f"got an adapter of {vector.numel()} values, this one has {self.numel()}; "
                "the processes run different configs"
            )
        parts = torch.split(vector, [tensor.numel() for tensor in self._tensors.values()])
        for tensor, part in zip(self._tensors.values(), parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the accumulated gradients (not copies; zeros where none arrived)."""
        return {
            name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for name, tensor in self._tensors.items()
        }

    def zero_grad(self) -> None:
        """Forget the accumulated gradients."""
        for tensor in self._tensors.values():
            tensor.grad = None

    @torch.no_grad()
    def norm(self) -> float:
        """Return the Frobenius norm of all factors stacked."""
        return math.sqrt(sum(float(t.double().square().sum()) for t in self._tensors.values()))
