r"""The policy in a checkpoint as LoRA factors in PEFT's format; `commands.export` calls it.

The adapter alone is not the policy: theta moved away from the base model too. So either both are
written, or the factors of the whole way from the base model:

    theta + s*B*A  =  base + D       D ~ B' A',  the R largest singular values of each layer's D

What D has besides (smaller singular values; embeddings, norms, biases) is lost. How much is said.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_scaffold
from coop_rl.errors import ConfigError
from coop_rl.learner.export import StoredPolicy, write_model
from coop_rl.models import adapter_shapes
from coop_rl.models.loading import load_causal_lm
from coop_rl.models.peft_folder import save_peft

OVERSAMPLING, POWER_ITERATIONS = 16, 4
"""Of the randomised SVD (arXiv 0909.4061): more directions than kept, and passes over D."""


@dataclass(frozen=True, slots=True)
class LowRankError:
    """What factors of rank R leave out of D, in Frobenius norms."""

    rank: int
    relative: float
    """Norm of what is left out over D's."""
    outside: float
    """The same of what lies in weights that have no factors: embeddings, norms, biases, head."""


def write_base_and_adapter(
    folder: Path, config: RunConfig, stored: StoredPolicy, final: Path, dtype: str | None
) -> None:
    """Write theta into `base` and w into `adapter` of `folder`, which is to be `final`.

    Raises:
        ConfigError: The policy has no w.
    """
    if stored.adapter is None:
        reason = (
            "w is a scaffold here, so that the policy is theta alone"
            if has_scaffold(config)
            else f"method.kind {config.method.kind} trains no adapter"
        )
        raise ConfigError(
            f"{reason}; export --merged, or --adapter --rank R for factors of the way from the base"
        )
    (folder / "base").mkdir()
    write_model(folder / "base", config, stored, stored.theta, dtype)
    section = config.adapter
    save_peft(
        stored.adapter.tensors,
        folder / "adapter",
        base=str(final.absolute() / "base"),
        rank=section.rank,
        alpha=section.alpha,
    )


@torch.no_grad()
def write_low_rank(
    folder: Path, config: RunConfig, stored: StoredPolicy, rank: int
) -> LowRankError:
    """Write factors of rank `rank` that turn the run's base model into the policy, nearly."""
    base = dict(load_causal_lm(config.model.path, "auto").named_parameters())
    names = {
        name.rpartition(".")[2]
        for name, module in stored.skeleton.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    layers = adapter_shapes(stored.skeleton, tuple(sorted(names)))
    factors: dict[str, torch.Tensor] = {}
    whole = outside = left = 0.0
    for name, merged in stored.merged(list(stored.shapes)):
        difference, layer = merged - base[name].float(), name.removesuffix(".weight")
        whole += float(difference.double().square().sum())
        if layer in layers:
            b_OR, a_RI = low_rank(difference, rank)
            factors |= {f"{layer}.lora_A": a_RI, f"{layer}.lora_B": b_OR}
            left += float((difference - b_OR @ a_RI).double().square().sum())
        else:
            outside += float(difference.double().square().sum())
    save_peft(factors, folder, base=config.model.path, rank=rank, alpha=rank)
    norm = math.sqrt(whole) or 1.0
    return LowRankError(rank, math.sqrt(left + outside) / norm, math.sqrt(outside) / norm)


def low_rank(difference_OI: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B [O, R] and A [R, I] whose product is nearest to a matrix; zeros fill up a small R.

    The singular values are split evenly between the two.
    """
    num_kept = min(rank, *difference_OI.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left_OQ, values_Q, right_IQ = torch.svd_lowrank(
            difference_OI,
            q=min(num_kept + OVERSAMPLING, *difference_OI.shape),
            niter=POWER_ITERATIONS,
        )
    roots_K = values_Q[:num_kept].sqrt()
    b_OR = difference_OI.new_zeros(difference_OI.size(0), rank)
    a_RI = difference_OI.new_zeros(rank, difference_OI.size(1))
    b_OR[:, :num_kept] = left_OQ[:, :num_kept] * roots_K
    a_RI[:num_kept] = (right_IQ[:, :num_kept] * roots_K).T
    return b_OR, a_RI
