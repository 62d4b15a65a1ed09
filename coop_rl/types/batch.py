"""From scored groups and demonstrations to what a learner rank computes on.

`algorithm.packing` makes PackedBatch out of TokenSamples and Demonstrations; the learners of both
branches consume the **same** one, so that their gradients differ by the parameters only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch  # for annotations alone: the reward's processes import these types without it

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
    teacher_prompt_ids: tuple[int, ...] = ()
    """The prompt with the demonstration written into it, from which the policy teaches itself
    (`self_distil`); empty: not rendered."""


@dataclass(frozen=True, slots=True)
class TokenSample:
    """One rollout as training data."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    behaviour_log_probs: tuple[float, ...]
    advantage: float
    """Group-relative advantage A_i, the same for every token of the response."""
    is_truncated: bool = False
    """Whether the token limit ended it."""
    is_valid: bool = True
    """Whether it was scored; one that was not does not train."""
    teacher_prompt_ids: tuple[int, ...] = ()
    """The prompt under which a teacher scores the response; empty: there is none."""


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of host memory on a device; a GPU is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class TokenGrid(NamedTuple):
    """What the decoder computes, and which of its outputs are scored.

    Sequences lie in K lanes of L places. A lane may hold several of them, and responses to one
    prompt may share it: then `sequence_KL` and `response_KL` say who sees whom.
    """

    token_ids_KL: torch.Tensor
    """int64; padding is 0, at the end of a lane."""
    position_ids_KL: torch.Tensor | None
    """int64; each response's positions go on from its prompt's; None: a lane's own 0, 1, ..."""
    sequence_KL: torch.Tensor | None
    """int64; a token sees earlier ones of the same sequence only; -1: padding; None: a lane is one
    sequence."""
    response_KL: torch.Tensor | None
    """int64; number of the response within its sequence; 0: the shared prompt. Of its sequence a
    token sees the prompt and its own response."""
    source_T: torch.Tensor
    """int64; place k * L + l whose output predicts the scored token."""
    target_T: torch.Tensor
    """int64; the scored tokens, sample by sample."""

    def to(self, device: torch.device) -> TokenGrid:
        """Return the grid on a device."""

        def move(part: torch.Tensor | None) -> torch.Tensor | None:
            return None if part is None else to_device(part, device)

        return TokenGrid(
            to_device(self.token_ids_KL, device),
            move(self.position_ids_KL),
            move(self.sequence_KL),
            move(self.response_KL),
            to_device(self.source_T, device),
            to_device(self.target_T, device),
        )


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B samples or demonstrations computed together; their T scored tokens are response tokens."""

    grid: TokenGrid
    row_T: torch.Tensor
    """int64; which of the B a scored token belongs to, ascending."""
    row_B: torch.Tensor
    """int64; index of each in the global batch of samples or demonstrations; empty: an anchor."""
    advantage_B: torch.Tensor
    """float32; advantage of a rollout, weight of a demonstration."""
    behaviour_log_prob_T: torch.Tensor
    """float32; log pi_b of the scored tokens; empty for demonstrations."""
    num_tokens: int
    """Places of the grid that hold a token of a sample; 0: an anchor."""
    is_trained_T: torch.Tensor | None = None
    """bool; False for tokens of masked responses; None: all train."""
    teacher: MicroBatch | None = None
    """The same responses, in the same order, behind their teacher's prompts; None: none."""

    @property
    def num_places(self) -> int:
        """K * L."""
        return self.grid.token_ids_KL.numel()


MicroBatches = tuple[tuple[MicroBatch, ...], ...]
"""[rank][micro-batch].

Every rank holds the same number of micro-batches of each kind (a rank short of rows gets an
anchor without a scored token), because their backward passes are collectives.
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
    """Response tokens of all rollouts on all ranks."""
    num_samples: int
    """Rollouts on all ranks."""
    num_masked_tokens: int = 0
    """Those of them that do not train (not scored, or rollout.mask_truncated)."""
    num_masked_samples: int = 0
    """The same of rollouts."""

    @property
    def num_trained_tokens(self) -> int:
        """Response tokens that train, on all ranks: the denominator of the RL loss."""
        return self.num_rl_tokens - self.num_masked_tokens

    @property
    def num_trained_samples(self) -> int:
        """Rollouts that train, on all ranks."""
        return self.num_samples - self.num_masked_samples

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
    scaffold: SourceBatch | None = None
    """Demonstrations that w alone is fitted to, where it is a scaffold; None: there are none."""
