r"""The two loss terms, each over its own global denominator (docs/algorithm.md sections 4 and 6).

RL, sequence-level reweighted policy gradient. With log-ratio of a response i
    l_i = sum_t ( log pi_branch(t) - log pi_b(t) )
    L_RL = - 1/T_RL * sum_i sg[ min( exp(l_i), cap ) ] * A_i * sum_t log pi_branch(t)
so -grad L_RL is the policy gradient of the branch, importance-weighted to the engine's samples. At
policy lag 0 the weight is 1 up to engine mismatch and this is GRPO with one step per batch
(arXiv 2402.03300, equation 21, at pi = pi_old). The same function with the same denominators
serves both branches, so the bracket g_w^RL - g-hat_w^RL is an unbiased difference (section 4
there: the token-level ratio drops cross-token terms of first order).

SFT, over the tokens of demonstrations, each with the weight c of its row (1 as a rule):
    nll      L = - 1/T_SFT * sum_t c_t log pi(t)
    phi      L = - 1/T_SFT * sum_t c_t sg[ pi(t) (1 - pi(t)) ] * log pi(t)
    shaped   L = - 1/(N_SFT max_tokens) * sum_t c_t f(pi(t)),      f(p) = p / (p + 0.1)
phi: CHORD, arXiv 2508.11408, section 3.3. shaped: LUFFY, arXiv 2504.14945, section 3.2, where c is
the expert trace's advantage; f' is largest for improbable tokens, so these are learned most.

sg is stop-gradient; T_RL and T_SFT count response tokens over all ranks and micro-batches, so no
gradient depends on how the batch was cut.
"""

import torch

from coop_rl.types import DemonstrationLoss

SHAPING = 0.1
"""gamma of LUFFY's f."""


def sequence_log_ratio(
    log_prob_T: torch.Tensor,
    behaviour_log_prob_T: torch.Tensor,
    row_of_token_T: torch.Tensor,
    num_rows: int,
) -> torch.Tensor:
    """Return l_B: per row, the sum over its tokens of log pi - log pi_b (nats, detached, fp64)."""
    difference_T = (log_prob_T.detach() - behaviour_log_prob_T).double()
    zeros_B = torch.zeros(num_rows, dtype=torch.float64, device=log_prob_T.device)
    return zeros_B.index_add(0, row_of_token_T, difference_T)


def rl_loss(
    log_prob_T: torch.Tensor,
    behaviour_log_prob_T: torch.Tensor,
    row_of_token_T: torch.Tensor,
    advantage_B: torch.Tensor,
    num_rows: int,
    num_tokens_global: int,
    ratio_cap: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (this micro-batch's share of L_RL, l_B).

    Args:
        log_prob_T: log pi_branch of the response tokens, with gradient.
        behaviour_log_prob_T: log pi_b of the same tokens.
        row_of_token_T: int64, the micro-batch row each token belongs to.
        advantage_B: A of each row.
        num_rows: B.
        num_tokens_global: T_RL.
        ratio_cap: Upper limit of the weight; it caps the value, it never zeroes a gradient.
    """
    log_ratio_B = sequence_log_ratio(log_prob_T, behaviour_log_prob_T, row_of_token_T, num_rows)
    weight_B = log_ratio_B.exp().clamp(max=ratio_cap)
    coefficient_B = (weight_B * advantage_B).to(log_prob_T.dtype)
    loss = -(coefficient_B[row_of_token_T] * log_prob_T).sum() / num_tokens_global
    return loss, log_ratio_B


def sft_loss(log_prob_T: torch.Tensor, num_tokens_global: int) -> torch.Tensor:
    """Return this micro-batch's share of L_SFT; `num_tokens_global` is T_SFT."""
    return -log_prob_T.sum() / num_tokens_global


def demonstration_loss(
    kind: DemonstrationLoss,
    log_prob_T: torch.Tensor,
    weight_T: torch.Tensor,
    num_tokens_global: int,
    num_rows_global: int,
    max_tokens: int,
) -> torch.Tensor:
    """Return a micro-batch's share of one term of L_SFT.

    Args:
        kind: The term, as listed in the module's docstring.
        log_prob_T: log pi of the demonstrations' tokens, with gradient.
        weight_T: c of each token's row.
        num_tokens_global: T_SFT.
        num_rows_global: N_SFT.
        max_tokens: Longest response; `shaped` only.
    """
    match kind:
        case "nll":
            return sft_loss(weight_T * log_prob_T, num_tokens_global)
        case "phi":
            probability_T = log_prob_T.detach().exp()
            phi_T = probability_T * (1.0 - probability_T)
            return sft_loss(weight_T * phi_T * log_prob_T, num_tokens_global)
        case "shaped":
            probability_T = log_prob_T.exp()
            shaped_T = probability_T / (probability_T + SHAPING)
            return -(weight_T * shaped_T).sum() / (num_rows_global * max_tokens)
