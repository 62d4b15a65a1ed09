r"""The bracket, and the gradient that w follows with it (docs/algorithm.md sections 3 and 5).

Learners return gradients of the losses (descent direction), so with h = -g the ascent step
w <- w + optimiser_w( (1-lambda_w) g_w^SFT + lambda_w (g_w^RL - g-hat_w^RL) ) minimises along

    (1 - lambda_w) h_w^SFT + lambda_w * bracket,      bracket = h_w^RL - h-hat_w^RL

(where rounding would hide the difference, the shadow takes it over a longer way and hands it over
whole: `learner.resolution`).

| w_objective | bracket is |
|---|---|
| cooperative | the difference of the branches: the method |
| mixture | h_w^RL alone: plain (1-lambda)SFT + lambda RL, no shadow |
| sft | 0 |
| random | a random direction, each tensor of it with the norm of the difference's |
| frozen | nothing moves |
"""

import math
from dataclasses import dataclass

import torch

from coop_rl.types import AdapterGradients

TensorDict = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class BracketStats:
    """What tells a w that does nothing from one that works."""

    bracket_norm: float
    bracket_cosine: float
    """Cosine of the bracket with g_w^SFT; nan where either is zero."""
    sft_grad_norm: float


def adapter_gradient(
    w_objective: str,
    penalty: float,
    joint: AdapterGradients,
    shadow: AdapterGradients | None,
    generator: torch.Generator,
) -> tuple[TensorDict, BracketStats]:
    """Return (the loss gradient of w to minimise along, statistics of its bracket).

    Args:
        w_objective: See the table above.
        penalty: lambda_w in [0, 1].
        joint: Gradients of the branch theta.
        shadow: Gradients of the branch theta-hat; needed by `cooperative` and `random`.
        generator: What the direction of the control `random` is drawn with.
    """
    bracket = _bracket(w_objective, joint, shadow, generator)
    names = joint.sft or joint.rl
    gradient = {}
    for name, reference in names.items():
        total = torch.zeros_like(reference)
        if joint.sft:
            total += (1.0 - penalty) * joint.sft[name]
        if bracket:
            total += penalty * bracket[name]
        gradient[name] = total
    return gradient, _stats(bracket, joint.sft)


def _bracket(
    w_objective: str,
    joint: AdapterGradients,
    shadow: AdapterGradients | None,
    generator: torch.Generator,
) -> TensorDict:
    if w_objective in ("sft", "frozen"):
        return {}
    if w_objective == "mixture":
        return joint.rl
    assert shadow is not None, f"w_objective {w_objective} needs the shadow's gradients"
    difference = shadow.bracket or {name: joint.rl[name] - shadow.rl[name] for name in joint.rl}
    if w_objective == "cooperative":
        return difference
    noise = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in difference.items()
    }
    # Tensor by tensor: A and B of one layer differ in size and in their gradients by far.
    return {
        name: value * (float(difference[name].norm()) / float(value.norm()))
        for name, value in noise.items()
    }


def _stats(bracket: TensorDict, sft: TensorDict) -> BracketStats:
    bracket_norm, sft_norm = norm(bracket), norm(sft)
    if bracket_norm == 0 or sft_norm == 0:
        return BracketStats(bracket_norm, math.nan, sft_norm)
    dot = sum(float((bracket[name].double() * sft[name].double()).sum()) for name in bracket)
    return BracketStats(bracket_norm, dot / (bracket_norm * sft_norm), sft_norm)


def norm(tensors: TensorDict) -> float:
    """Return the Euclidean norm over all tensors; 0 for none."""
    return math.sqrt(sum(float((value.double() ** 2).sum()) for value in tensors.values()))
