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
    """The data source it stems from; `demonstrations` guidance weighs sources."""
    weight: float = 1.0
    """Factor of its terms in the SFT loss; where the loss is `shaped`, the trace's advantage."""


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
    """float32; advantage of a rollout, weight of a demonstration."""
    behaviour_log_prob_T: torch.Tensor
    """float32; log pi_b of the response tokens, row by row; empty for demonstrations."""


MicroBatches = tuple[tuple[MicroBatch, ...], ...]
"""[rank][micro-batch].

Every rank holds the same number of micro-batches of each kind (a rank short of rows gets an empty
anchor row with no response token), because their backward passes are collectives.
"""


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """The demonstrations of one source, or of all where sources are not told apart."""

    source: str
    """Empty: all."""
    ranks: MicroBatches
    num_tokens: int
    """Response tokens on all ranks: the denominator of this source's SFT loss."""
    ids: tuple[str, ...]
    """Demonstration ids, indexed by `MicroBatch.row_B`."""

    @property
    def num_rows(self) -> int:
        """Demonstrations on all ranks."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The data of one optimiser step for all ranks of a learner group, with global denominators."""

    rl: MicroBatches
    """Rollouts; empty tuples where there are none."""
    sft: tuple[SourceBatch, ...]
    """Demonstrations by source; empty where there are none."""
    num_rl_tokens: int
    """Response tokens of all rollouts on all ranks: the denominator of the RL loss."""
    num_samples: int
    """Rollouts on all ranks."""

    @property
    def num_sft_tokens(self) -> int:
        """Response tokens of all demonstrations on all ranks."""
        return sum(batch.num_tokens for batch in self.sft)


@dataclass(frozen=True, slots=True)
class BranchBatch:
    """One meta-step's data of one branch."""

    minibatches: tuple[PackedBatch, ...]
    """One optimiser step each, in order; the gradients of w are those of the first."""
    bracket: PackedBatch | None = None
    """Rollouts that w's RL gradient is measured on; None: those of the first minibatch."""
