"""Attention of variable length: sequences behind each other, without masks and without padding.

    grid --spans_of--> Spans --one kernel call a layer--> every place's output

The places of a grid are cut into segments: a sequence of its own, a shared prompt, each response to
it. A segment's queries are its places; its keys too, and before them a response's keys are those of
its prompt, which are gathered: so responses share a prompt's computation, as in a dense mask. The
kernel is torch's (`torch.nn.attention.varlen`, CUDA, 16 bits); on CPUs a loop over the segments
stands in for it, slow and exact, by which it is tested.

`models.policy` hands the spans through the decoder to every layer's attention function, which
transformers finds by its name.
"""

import inspect
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coop_rl.errors import ModelError
from coop_rl.types import TokenGrid
from coop_rl.types.batch import to_device

NAME = "coop_varlen"
"""The attention implementation's name in transformers' table."""
HEAD_MULTIPLE, MOST_HEAD = 8, 256
"""What the kernel allows of the size of a head."""


class Spans(NamedTuple):
    """Segments of a grid whose lanes are read one after the other."""

    cu_q: torch.Tensor
    """int32; where each segment's queries begin, and the end of the last."""
    cu_k: torch.Tensor
    """int32; the same of its keys."""
    key_places: torch.Tensor | None
    """int64; the place of every key; None: keys are the places themselves."""
    max_q: int
    """Most queries of a segment: on the host, as the kernel wants it."""
    max_k: int

    def to(self, device: torch.device) -> "Spans":
        """Return them on a device."""
        cu_q, cu_k = to_device(self.cu_q, device), to_device(self.cu_k, device)
        places = None if self.key_places is None else to_device(self.key_places, device)
        return Spans(cu_q, cu_k, places, self.max_q, self.max_k)


def spans_of(grid: TokenGrid) -> Spans:
    """Return the segments of a grid that is in host memory; padding makes segments of its own."""
    num_lanes, length = grid.token_ids_KL.shape
    if grid.sequence_KL is None or grid.response_KL is None:
        cu = torch.arange(0, num_lanes * length + 1, length, dtype=torch.int32)
        return Spans(cu, cu, None, length, length)
    sequences, responses = (t.numpy() for t in (grid.sequence_KL, grid.response_KL))
    begins = np.ones((num_lanes, length), dtype=bool)
    begins[:, 1:] = (np.diff(sequences) != 0) | (np.diff(responses) != 0)
    first = np.flatnonzero(begins)
    edges = np.append(first, num_lanes * length)
    queries = np.diff(edges)
    # A response follows its prompt, with no other prompt between them.
    is_response = responses.reshape(-1)[first] > 0
    prompt = np.maximum.accumulate(np.where(is_response, 0, np.arange(len(first))))
    shared = np.where(is_response, queries[prompt], 0)
    keys = queries + shared
    return Spans(
        torch.from_numpy(edges.astype(np.int32)),
        torch.from_numpy(np.append(0, np.cumsum(keys)).astype(np.int32)),
        torch.from_numpy(_places(first, first[prompt], shared, keys)) if shared.any() else None,
        int(queries.max()),
        int(keys.max()),
    )


def _places(
    first: NDArray[np.int64],
    of_prompt: NDArray[np.int64],
    shared: NDArray[np.int64],
    keys: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the place of every key, segment by segment."""
    within = np.arange(keys.sum()) - np.repeat(np.cumsum(keys) - keys, keys)
    before = np.repeat(shared, keys)
    own = np.repeat(first, keys) + within - before
    return np.where(within < before, np.repeat(of_prompt, keys) + within, own)


def register() -> None:
    """Make the attention known to transformers; calling it again does nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,  # noqa: ARG001 - transformers passes it
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - none is made for this attention
    *,
    spans: Spans,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within the segments of `spans`; tensors are [K, heads, L, D], the output [K, L, ...].

    A window of W tokens is a token and the W - 1 before it.
    """
    num_lanes, num_heads, length, size = query.shape
    q_TND, k_TND, v_TND = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    if spans.key_places is not None:
        k_TND, v_TND = (x.index_select(0, spans.key_places) for x in (k_TND, v_TND))
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    kernel = _kernel() if query.is_cuda else segment_by_segment
    out_TND = kernel(q_TND, k_TND, v_TND, *spans[:2], *spans[3:], scale=scaling, window_size=window)
    return out_TND.view(num_lanes, length, num_heads, size), None


@cache
def _kernel() -> Any:
    from functools import partial

    from torch.nn.attention.varlen import varlen_attn

    # torch 2.11 groups heads by itself and knows no such argument.
    groups = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return partial(varlen_attn, enable_gqa=True) if groups else varlen_attn


def segment_by_segment(
    q_TND: torch.Tensor,
    k_TND: torch.Tensor,
    v_TND: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    max_q: int,  # noqa: ARG001 - the kernel's arguments
    max_k: int,  # noqa: ARG001
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """Compute what torch's kernel does; where keys outnumber queries, their ends are aligned."""
    parts, (before, _) = [], window_size
    for q, k, v in zip(
        q_TND.tensor_split(cu_q[1:-1].tolist()),
        k_TND.tensor_split(cu_k[1:-1].tolist()),
        v_TND.tensor_split(cu_k[1:-1].tolist()),
        strict=True,
    ):
        distance = torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))
        is_seen = distance >= 0
        if before >= 0:
            is_seen &= distance <= before
        q_NTD, k_NTD, v_NTD = (x.transpose(0, 1) for x in (q, k, v))
        out = nn.functional.scaled_dot_product_attention(
            q_NTD, k_NTD, v_NTD, is_seen.to(q.device), scale=scale, enable_gqa=True
        )
        parts.append(out.transpose(0, 1))
    return torch.cat(parts)


def check_varlen(settings: dict[str, Any], dtype: torch.dtype, *, is_on_gpu: bool) -> None:
    """Refuse models that attention of variable length cannot compute.

    Args:
        settings: The model's config as a dict.
        dtype: The compute type.
        is_on_gpu: Whether the kernel is used, which wants more than its stand-in does.

    Raises:
        ModelError: With what it lacks.
    """
    size = settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]
    if settings.get("attn_logit_softcapping"):
        reason = "caps its attention's logits"
    elif is_on_gpu and (size % HEAD_MULTIPLE or size > MOST_HEAD):
        reason = f"has heads of {size} values, multiples of {HEAD_MULTIPLE} up to {MOST_HEAD} work"
    elif is_on_gpu and dtype == torch.float32:
        reason = "computes in float32, the kernel in bfloat16"
    else:
        return
    raise ModelError(f"learner.attention varlen: this model {reason}; set learner.attention sdpa")
