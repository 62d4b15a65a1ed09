"""From scored groups and demonstrations to what a learner rank computes on.

`algorithm.packing` makes PackedBatch out of TokenSamples and Demonstrations; the learners of both
branches consume the **same** one, so that their gradients differ by the parameters only.
"""

from dataclasses import dataclass

import torch

TokenRow = tuple[tuple[int, ...], tuple[int, ...]]
"""(prompt ids, response ids) to be scored."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An expert trace (x, r, y): prompt, reasoning and answer as tokens."""

    id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """Reasoning and answer, ending with the end-of-sequence token; length >= 1."""
    source: str = "demonstrations"


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One rollout as training data."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    behaviour_log_probs: tuple[float, ...]
    advantage: float
    """Group-relative advantage A_i, the same for every token of the response."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows computed together: right-padded, so causal attention needs no mask."""

    token_ids_BL: torch.Tensor
    """int64; padding is 0 and is never selected nor attended to by a selected token."""
    is_response_BL: torch.Tensor
    """bool; True where the token is a response token, i.e. a term of the loss."""
    row_B: torch.Tensor
    """int64; index of each row in the global batch of samples or demonstrations; -1: anchor row."""
    advantage_B: torch.Tensor
    """float32; zeros for demonstrations."""
    behaviour_log_prob_T: torch.Tensor
    """float32; log pi_b of the response tokens, row by row; empty for demonstrations."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One meta-step's data for all ranks of a learner group, with global denominators.

    Every rank holds the same number of micro-batches of each kind (a rank short of rows gets an
    empty anchor row with no response token), because their backward passes are collectives.
    """

    rl: tuple[tuple[MicroBatch, ...], ...]
    """[rank][micro-batch] of rollouts; empty tuples when the method samples none."""
    sft: tuple[tuple[MicroBatch, ...], ...]
    """[rank][micro-batch] of demonstrations."""
    num_rl_tokens: int
    """Response tokens of all rollouts on all ranks: the denominator of the RL loss."""
    num_sft_tokens: int
    """Response tokens of all demonstrations on all ranks: the denominator of the SFT loss."""
    num_samples: int
    """Rollouts N = P x G."""
