"""Receipts: the checksum of every tensor a peer holds, so that a difference has a name.

A receipt is {tensor name: XXH3 of its bytes}, a checksum faster than memory (CRC-32 took longer
than sending the weights). Engine workers keep one of the last completed weight sync, learners make
one of their replica of w after every push.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:  # slow to import, and who only hands receipts on holds no tensors
    import torch

Receipt = dict[str, int]
RECEIPT_METHOD = "coop_rl_receipt"
ABANDON_METHOD = "coop_rl_abandon"
EXTENSION = "coop_rl.weights.receipt.ReceiptExtension"


def checksum(tensor: torch.Tensor) -> int:
    """XXH3 of a tensor's bytes, 63 bits: they travel as int64."""
    import torch

    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return xxhash.xxh3_64_intdigest(flat.view(torch.uint8).numpy().data) >> 1


def receipt_of(pairs: Iterable[tuple[str, torch.Tensor]]) -> Receipt:
    """Return the receipt of named tensors."""
    return {name: checksum(tensor) for name, tensor in pairs}


def describe_difference(theirs: Mapping[str, int], ours: Mapping[str, int]) -> str | None:
    """Name the first tensor of `ours` that `theirs` lacks or has otherwise; None where equal."""
    differing = [name for name, checksum in ours.items() if theirs.get(name) != checksum]
    if not differing:
        return None
    return f"{differing[0]}" + (f" and {len(differing) - 1} more" if len(differing) > 1 else "")


class ReceiptExtension:
    """Mixed into vLLM's worker class (`worker_extension_cls`); vLLM calls the methods by name."""

    weight_transfer_engine: Any
    vllm_config: Any
    _weight_update_active: bool

    def coop_rl_receipt(self) -> Receipt:
        """Return the receipt of the last sync; empty where the backend keeps none (nccl)."""
        receipt: Receipt = vars(self.weight_transfer_engine).get("receipt", {})
        return receipt

    def coop_rl_abandon(self) -> None:
        """Forget an update that was begun and not finished.

        vLLM 0.32 itself does so only where receiving raised: a worker that had received all when
        another engine, or the sender, was lost would refuse every later update as "already active".
        """
        if not self._weight_update_active:
            return
        from vllm.config import set_current_vllm_config

        with set_current_vllm_config(self.vllm_config):
            if abandon := vars(type(self.weight_transfer_engine)).get("abandon"):
                abandon(self.weight_transfer_engine)
            self.weight_transfer_engine.reset_weight_update_target()
        self._weight_update_active = False
