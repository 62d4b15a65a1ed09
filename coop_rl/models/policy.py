"""pi(theta, w) as a module: a grid of tokens in, log-probs of the scored ones out.

    TokenGrid --> decoder --> hidden_KLH --select--> hidden_TH --ChunkedHead--> TokenScores

Called by the learner through its training engine. A lane that is one sequence is right-padded under
causal attention, and no scored token attends to padding: no mask is needed. Several sequences in a
lane see each other neither through attention (a block-diagonal mask, or variable-length attention
that reads the restarts of the positions) nor through positions.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from coop_rl.errors import ModelError
from coop_rl.models.head import KEPT_CHUNKS, ChunkedHead, TokenScores
from coop_rl.models.varlen import NAME as VARLEN
from coop_rl.models.varlen import Spans, spans_of
from coop_rl.types import TokenGrid

if TYPE_CHECKING:  # slow to import, and the meta-controller loads no model
    from transformers import PreTrainedModel

PREFIX = "causal_lm."
UNMASKED = ("flash_attention_2", VARLEN)
"""Attention that knows by itself who sees whom."""


class PolicyModel(nn.Module):
    """A causal LM that scores given tokens at the sampling temperature."""

    def __init__(
        self,
        causal_lm: "PreTrainedModel",
        *,
        temperature: float = 1.0,
        logits_chunk: int = 4096,
        num_kept_chunks: int = KEPT_CHUNKS,
        has_entropy_gradient: bool = False,
    ) -> None:
        """Wrap `causal_lm`.

        Args:
            causal_lm: A decoder with a linear output embedding (Qwen, Llama, Mistral, ...).
            temperature: Logits are divided by it, as the rollout engine does.
            logits_chunk: Scored tokens whose vocabulary logits are computed at once.
            num_kept_chunks: Chunks whose logits are kept for the backward pass.
            has_entropy_gradient: Whether an entropy bonus is differentiated.

        Raises:
            ModelError: The model has no linear output embedding.
        """
        super().__init__()
        output_embedding = causal_lm.get_output_embeddings()
        if not isinstance(output_embedding, nn.Linear):
            raise ModelError(
                f"{type(causal_lm).__name__} has no linear output embedding; "
                "choose a causal LM as model.path"
            )
        self.causal_lm = causal_lm
        # Registered after `causal_lm`, so the shared weight keeps its checkpoint name.
        self.head = ChunkedHead(
            output_embedding, temperature, logits_chunk, num_kept_chunks, has_entropy_gradient
        )

    def forward(
        self,
        token_ids_KL: torch.Tensor,
        position_ids_KL: torch.Tensor | None,
        sequence_KL: torch.Tensor | None,
        response_KL: torch.Tensor | None,
        source_T: torch.Tensor,
        target_T: torch.Tensor,
        spans: Spans | None = None,
    ) -> TokenScores:
        """Return log pi and entropy of the scored tokens, of what `inputs_of` returns."""
        attention_arguments = {} if spans is None else {"spans": spans}
        hidden_KLH = self.causal_lm.get_decoder()(
            input_ids=token_ids_KL,
            attention_mask=self._mask(sequence_KL, response_KL),
            position_ids=position_ids_KL,
            use_cache=False,
            **attention_arguments,
        ).last_hidden_state
        scores: TokenScores = self.head(hidden_KLH.flatten(0, 1)[source_T], target_T)
        return scores

    @property
    def is_varlen(self) -> bool:
        """Whether its attention reads spans."""
        return bool(self.causal_lm.config._attn_implementation == VARLEN)

    def _mask(
        self, sequence_KL: torch.Tensor | None, response_KL: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return who sees whom, [K, 1, L, L], as the model's attention wants it."""
        attention = self.causal_lm.config._attn_implementation
        if sequence_KL is None or response_KL is None or attention in UNMASKED:
            return None
        is_visible_KLL = visible(sequence_KL, response_KL)
        if attention == "sdpa":
            return is_visible_KLL[:, None]
        dtype = self.causal_lm.dtype
        blocked = torch.zeros((), dtype=dtype, device=sequence_KL.device)
        return blocked.masked_fill(~is_visible_KLL[:, None], torch.finfo(dtype).min)


def inputs_of(policy: object, grid: TokenGrid, device: torch.device) -> tuple[Any, ...]:
    """Return what a policy's `forward` takes of a grid in host memory, on `device`."""
    moved = grid.to(device)
    if isinstance(policy, PolicyModel) and policy.is_varlen:
        return (*moved, spans_of(grid).to(device))
    return tuple(moved)


def visible(sequence_KL: torch.Tensor, response_KL: torch.Tensor) -> torch.Tensor:
    """Return bool [K, L, L]: whether the token of the second index sees that of the third.

    A token sees itself and those before it in its own sequence that belong to the prompt (response
    0) or to its own response. Padding is a sequence too: a token that sees nothing would make NaN.
    """
    length = sequence_KL.size(1)
    is_same_KLL = sequence_KL[:, :, None] == sequence_KL[:, None, :]
    is_own_KLL = response_KL[:, :, None] == response_KL[:, None, :]
    is_own_KLL |= response_KL[:, None, :] == 0
    is_before_LL = torch.ones(length, length, dtype=torch.bool, device=sequence_KL.device).tril()
    return is_same_KLL & is_own_KLL & is_before_LL


def checkpoint_name(name: str) -> str:
    """Return the Hugging Face checkpoint name of a parameter of `PolicyModel`."""
    return name.removeprefix(PREFIX)
