"""One step of the method in small numbers, written into docs/how-it-works.md.

make docs        or        python docs/worked_example.py docs/how-it-works.md

One prompt, three possible answers of one token, so theta, theta-hat and w are three logits each.
The losses, the bracket and the gain are the functions that a run uses; the optimiser is plain
gradient descent at rate 1 instead of AdamW, so that every number can be checked by hand.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from coop_rl.algorithm.bracket import adapter_gradient
from coop_rl.algorithm.gain import gain_per_prompt
from coop_rl.algorithm.losses import rl_loss, sft_loss
from coop_rl.types import AdapterGradients, PolicyVersion

ANSWERS = ("41", "42", "24")
THETA = (0.6, 0.4, 0.0)
SHADOW = (0.8, 0.2, 0.0)
W = (0.0, 0.0, 0.0)
SAMPLED = (0, 0, 1, 2)
"""The answers of the four responses, as indices."""
RIGHT = 1
MIX = 0.5
"""lambda, and lambda_w."""
BEGIN, END = "<!-- written by docs/worked_example.py -->", "<!-- end -->"

Vector = torch.Tensor


def vector(values: Sequence[float]) -> Vector:
    """Return logits that take a gradient."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def log_probs(branch: Vector, w: Vector) -> Vector:
    """Return log pi of the three answers."""
    return (branch + w).log_softmax(0)


def rl_gradients(branch: Vector, w: Vector, advantage: Vector) -> tuple[Vector, Vector]:
    """Return the gradients of L_RL in the branch and in w, on joint's samples."""
    taken = torch.tensor(SAMPLED)
    sampler = log_probs(vector(THETA), vector(W)).detach()
    rows = torch.arange(len(SAMPLED))
    loss, _ = rl_loss(
        log_probs(branch, w)[taken], sampler[taken], rows, advantage, len(rows), len(rows), 5.0
    )
    by_branch, by_w = torch.autograd.grad(loss, (branch, w))
    return by_branch, by_w


def sft_gradients(branch: Vector, w: Vector) -> tuple[Vector, Vector]:
    """Return the gradients of L_SFT: the demonstration says the right answer."""
    loss = sft_loss(log_probs(branch, w)[RIGHT : RIGHT + 1], 1)
    by_branch, by_w = torch.autograd.grad(loss, (branch, w))
    return by_branch, by_w


def shown(values: Vector | Sequence[float], form: str = "+.3f") -> str:
    """Return three numbers for a table's cell."""
    return ", ".join(f"{float(value) + 0.0:{form}}" for value in torch.as_tensor(values).detach())


def render() -> str:
    """Return the worked example as Markdown."""
    theta, shadow, w = vector(THETA), vector(SHADOW), vector(W)
    reward = torch.tensor([float(i == RIGHT) for i in SAMPLED], dtype=torch.float64)
    advantage = reward - reward.mean()
    version = PolicyVersion(0, 0)
    theta_rl, w_rl = rl_gradients(theta, w, advantage)
    theta_sft, w_sft = sft_gradients(theta, w)
    shadow_rl, w_shadow = rl_gradients(shadow, w, advantage)
    gradient, _ = adapter_gradient(
        "cooperative",
        MIX,
        AdapterGradients("joint", version, {"w": w_rl}, {"w": w_sft}),
        AdapterGradients("shadow", version, {"w": w_shadow}, {}),
        torch.Generator(),
    )
    new_theta = theta - (1 - MIX) * theta_sft - MIX * theta_rl
    new_shadow = shadow - shadow_rl
    new_w = w - gradient["w"]
    ratio_N = [
        (log_probs(branch, w) - log_probs(theta, w)).detach()[torch.tensor(SAMPLED)].numpy()
        for branch in (theta, shadow)
    ]
    (gain,) = gain_per_prompt(reward.numpy()[None], ratio_N[0][None], ratio_N[1][None])
    weights = np.exp(ratio_N[1])
    p, p_shadow, p_new = (
        log_probs(a, b).exp().detach() for a, b in ((theta, w), (shadow, w), (new_theta, new_w))
    )
    rows = [
        ("answers", ", ".join(ANSWERS)),
        ("θ, and π(θ, w)", f"{shown(theta)}; {shown(p, '.3f')}"),
        ("θ̂, and π(θ̂, w)", f"{shown(shadow)}; {shown(p_shadow, '.3f')}"),
        ("four responses sampled from π(θ, w)", ", ".join(ANSWERS[i] for i in SAMPLED)),
        ("rewards R", shown(reward, ".0f")),
        ("advantages A = R − mean", shown(advantage, "+.2f")),
        ("−∇L_RL at θ: g^RL, in θ and in w", shown(-theta_rl)),
        ("−∇L_SFT at θ: g^SFT, in θ and in w", shown(-theta_sft)),
        ("weights π(θ̂, w) / π(θ, w) of the responses", shown(weights.tolist(), ".3f")),
        ("−∇L_RL at θ̂, so weighed: ĝ^RL", shown(-shadow_rl)),
        ("**bracket** g_w^RL − ĝ_w^RL", shown(w_shadow - w_rl)),
        ("θ ← θ + ½ g^SFT + ½ g^RL", shown(new_theta)),
        ("θ̂ ← θ̂ + ĝ^RL", shown(new_shadow)),
        ("w ← w + ½ g_w^SFT + ½ bracket", shown(new_w)),
        ("**cooperative gain** G, from the four responses", f"{gain:+.4f}"),
        ("J_RL(θ, w) − J_RL(θ̂, w), exactly", f"{float(p[RIGHT] - p_shadow[RIGHT]):+.4f}"),
        ("π(θ, w) of the right answer, before and after", f"{p[RIGHT]:.3f}, {p_new[RIGHT]:.3f}"),
    ]
    table = (f"| {name} | {value} |" for name, value in rows)
    return "\n".join(["| quantity | value |", "|---|---|", *table])


def renewed(page: str) -> str:
    """Return the page with the example as it comes out now."""
    return re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n\n{render()}\n\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(renewed(file.read_text(encoding="utf-8")), encoding="utf-8")
