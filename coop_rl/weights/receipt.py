"""Receipts: the checksum of every tensor a peer holds, so that a difference has a name.

A receipt is {tensor name: checksum of its bytes}: XXH3, a checksum faster than memory (CRC-32 took
longer than sending the weights). Weights that pass within a GPU are summed there, at both ends,
since the way to the host would take longer than theirs. Engine workers keep a receipt of the last
completed weight sync, learners make one of their replica of w after every push.
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
WORD_BYTES, WORDS_AT_A_TIME = 8, 2**21
FACTOR = 2 * 0x1E3779B97F4A7C15
"""Even, so that its multiples + 1 are odd; from the golden ratio, so that those use all bits."""
EXTENSION = "coop_rl.weights.receipt.ReceiptExtension"


def checksum(tensor: torch.Tensor) -> int:
    """XXH3 of a tensor's bytes, 63 bits: they travel as int64."""
    flat_B = flat_bytes(tensor.to("cpu"))
    return xxhash.xxh3_64_intdigest(flat_B.numpy().data) >> 1


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, a copy of them where they do not lie together."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def sum_of_words(flat_B: torch.Tensor) -> int:
    """Return the sum of each word times an odd number of its place, modulo 2^64, halved.

    An odd factor has an inverse, so a change of a single word always changes the sum; words that
    change places do too, as every place has a factor of its own.
    """
    import torch
    from torch.nn.functional import pad

    if flat_B.storage_offset() % WORD_BYTES:
        flat_B = flat_B.clone()  # no words are read across their bounds
    total = torch.zeros((), dtype=torch.int64, device=flat_B.device)
    # Integers of torch wrap around, which is what is wanted.
    for done in range(0, len(flat_B), WORD_BYTES * WORDS_AT_A_TIME):
        part_B = flat_B[done : done + WORD_BYTES * WORDS_AT_A_TIME]
        words = pad(part_B, (0, -len(part_B) % WORD_BYTES)).view(torch.int64)
        places = torch.arange(1, len(words) + 1, device=flat_B.device) + done // WORD_BYTES
        total += (words * (places * FACTOR + 1)).sum()
    return (int(total) % 2**64) >> 1


def receipt_of(pairs: Iterable[tuple[str, torch.Tensor]]) -> Receipt:
    """Return the receipt of named tensors."""
    return {name: checksum(tensor) for name, tensor in pairs}


def receipt_on(device: torch.device, pairs: Iterable[tuple[str, torch.Tensor]]) -> Receipt:
    """Return the receipt of named tensors as it is taken of weights that pass on `device`."""
    if device.type == "cpu":
        return receipt_of(pairs)
    return {name: sum_of_words(flat_bytes(tensor.to(device))) for name, tensor in pairs}


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
