r"""A linear layer whose adapter is merged while it computes: x -> x (W + s*B A)^T + bias.

    forward    W' = W + s*B A          o  = x W'^T + bias
    backward   G  = (dL/do)^T x        dW = G,   dB = s*G A^T,   dA = s*B^T G,   dx = dL/do W'

w's gradient follows from W's, which is computed anyway: with R the rank, O and I the layer's
sizes and T tokens this takes 4 O I R products a pass, where two more layers beside W would take
3 T R (O + I). W' is made anew in the backward pass rather than kept: no copy of the model stays.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

Gradient = torch.Tensor | None


class MergedLinear(torch.autograd.Function):
    """`MergedLinear.apply(x, weight_OI, bias_O, a_RI, b_OR, scale)`; all of one type."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Return the layer's output, [..., O]."""
        ctx.save_for_backward(x, weight_OI, a_RI, b_OR)
        ctx.scale = scale
        return nn.functional.linear(x, torch.addmm(weight_OI, b_OR, a_RI, alpha=scale), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Gradient, ...]:
        """Return the gradients of what `forward` was given."""
        x, weight_OI, a_RI, b_OR = ctx.saved_tensors
        needs_x, _, needs_bias, *_ = ctx.needs_input_grad
        grad_TO, x_TI = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_x = None
        if needs_x:
            grad_x = grad @ torch.addmm(weight_OI, b_OR, a_RI, alpha=ctx.scale)
        grad_OI = grad_TO.T @ x_TI
        grad_b = (grad_OI @ a_RI.T).mul_(ctx.scale)
        grad_a = (b_OR.T @ grad_OI).mul_(ctx.scale)
        return grad_x, grad_OI, grad_TO.sum(0) if needs_bias else None, grad_a, grad_b, None
