"""pi(theta, w) as a module: token ids and a response mask in, log-probs of the response out.

    token_ids_BL --> decoder --> hidden_BLH --select--> hidden_TH --ChunkedHead--> TokenScores

Called by the learner through its training engine. Rows are right-padded and attention is causal, so
no selected token attends to padding and no attention mask is needed.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from coop_rl.errors import ModelError

PREFIX = "causal_lm."
UNSUPPORTED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of models whose logits are more than a linear map of the last hidden state."""


class TokenScores(NamedTuple):
    """The policy at the T response tokens of a micro-batch, row by row."""

    log_prob_T: torch.Tensor
    """fp32, with gradient; nats."""
    entropy_T: torch.Tensor
    """fp32, with gradient only where the model was built for it; nats."""
    is_top_T: torch.Tensor | None = None
    """bool; whether the token is the policy's likeliest; None where gradients are computed."""


class ChunkedHead(nn.Module):
    """Hidden states to log-probs, a chunk of tokens at a time; [T, V] never exists at once.

    It holds the output embedding itself instead of calling that module per chunk: ZeRO-3 then
    gathers the weight once, however many chunks a rank has (ranks with different numbers of
    chunks would otherwise run different numbers of collectives and hang).
    """

    def __init__(
        self,
        output_embedding: nn.Linear,
        temperature: float,
        chunk: int,
        has_entropy_gradient: bool,
    ) -> None:
        """Share the parameters of `output_embedding`."""
        super().__init__()
        self.weight = output_embedding.weight
        self.bias = output_embedding.bias
        self._temperature = temperature
        self._chunk = chunk
        self._has_entropy_gradient = has_entropy_gradient

    def forward(self, hidden_TH: torch.Tensor, target_T: torch.Tensor) -> TokenScores:
        """Score `target_T` under the hidden states that predict them; T = 0 stays in the graph."""
        parts = [
            checkpoint(self._score, hidden, target, use_reentrant=False)
            for hidden, target in zip(
                torch.split(hidden_TH, self._chunk), torch.split(target_T, self._chunk), strict=True
            )
        ]
        log_prob_T, entropy_T = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        if torch.is_grad_enabled():
            return TokenScores(log_prob_T, entropy_T)
        return TokenScores(log_prob_T, entropy_T, torch.cat([part[2] for part in parts]))

    def _score(self, hidden_CH: torch.Tensor, target_C: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits_CV = nn.functional.linear(hidden_CH, self.weight, self.bias)
        # fp32 (or better): a bf16 log-softmax is off by more than a step moves the policy.
        logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        logits_CV = logits_CV / self._temperature
        normalizer_C = logits_CV.logsumexp(-1)
        log_prob_C = logits_CV.gather(-1, target_C[:, None]).squeeze(-1) - normalizer_C
        with torch.set_grad_enabled(self._has_entropy_gradient and torch.is_grad_enabled()):
            probability_CV = (logits_CV - normalizer_C[:, None]).exp()
            entropy_C = normalizer_C - (probability_CV * logits_CV).sum(-1)
        if torch.is_grad_enabled():
            return log_prob_C, entropy_C
        return log_prob_C, entropy_C, logits_CV.argmax(-1) == target_C


class PolicyModel(nn.Module):
    """A causal LM that scores given tokens at the sampling temperature."""

    def __init__(
        self,
        causal_lm: PreTrainedModel,
        *,
        temperature: float = 1.0,
        logits_chunk: int = 4096,
        has_entropy_gradient: bool = False,
    ) -> None:
        """Wrap `causal_lm`.

        Args:
            causal_lm: A decoder with a linear output embedding (Qwen, Llama, Mistral, ...).
            temperature: Logits are divided by it, as the rollout engine does.
            logits_chunk: Response tokens whose vocabulary logits exist at once.
            has_entropy_gradient: Whether an entropy bonus is differentiated.

        Raises:
            ModelError: The model's logits are not a linear map of its last hidden state.
        """
        super().__init__()
        settings = causal_lm.config.to_dict()
        for key in UNSUPPORTED_HEADS:
            if settings.get(key) not in (None, 1, 1.0):
                raise ModelError(f"models with {key} are not supported; choose another model.path")
        output_embedding = causal_lm.get_output_embeddings()
        if not isinstance(output_embedding, nn.Linear):
            raise ModelError(
                f"{type(causal_lm).__name__} has no linear output embedding; "
                "choose a causal LM as model.path"
            )
        self.causal_lm = causal_lm
        # Registered after `causal_lm`, so the shared weight keeps its checkpoint name.
        self.head = ChunkedHead(output_embedding, temperature, logits_chunk, has_entropy_gradient)

    def forward(self, token_ids_BL: torch.Tensor, is_response_BL: torch.Tensor) -> TokenScores:
        """Return log pi and entropy at the response tokens.

        Args:
            token_ids_BL: int64, right-padded.
            is_response_BL: bool; False at position 0, which nothing predicts.
        """
        decoder = self.causal_lm.get_decoder()
        hidden_BLH = decoder(input_ids=token_ids_BL, use_cache=False).last_hidden_state
        is_target = is_response_BL[:, 1:]
        # The token at l is predicted from the hidden state at l - 1.
        scores: TokenScores = self.head(
            hidden_BLH[:, :-1][is_target], token_ids_BL[:, 1:][is_target]
        )
        return scores


def checkpoint_name(name: str) -> str:
    """Return the Hugging Face checkpoint name of a parameter of `PolicyModel`."""
    return name.removeprefix(PREFIX)
