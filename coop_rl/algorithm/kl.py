r"""KL(pi || pi_ref) of responses sampled from pi: values to report, and a loss to descend.

With k1_t = log pi(t) - log pi_ref(t) at the tokens t of a response y:
    k1 = k1_t        k2 = k1_t^2 / 2        k3 = exp(-k1_t) - 1 + k1_t
As **values** k1 and k3 are unbiased, k2 is not, k3 has the least variance (Schulman, Approximating
KL Divergence, 2020, joschu.net/blog/kl-approx.html).

As **losses** to differentiate they are not what they seem, since pi is also what y is drawn from
(Tang and Munos, arXiv 2506.09477; Shah et al., arXiv 2512.21852). With g_t = grad log pi(t):
    k1    E[ g_t ] = 0: noise, no penalty at all
    k2    E[ k1_t g_t ]: right for a response of one token
    k3    E[ (1 - pi_ref / pi) g_t ]: the gradient of KL(pi_ref || pi), another divergence
Nor does any of them know that a token changes which tokens follow. The exact gradient is
    grad KL(pi || pi_ref) = E[ sum_t (sum_{s >= t} k1_s) g_t ]
with the sum over the response's tokens from t on; earlier ones are independent of g_t given the
prefix and drop out. That is `kl_loss` for k1. For k2 and k3 it is E[ sum_t k1_t g_t ], the part
with the prefixes' distribution held fixed: less variance, biased from two tokens on.
"""

from typing import Literal

import torch

KlEstimator = Literal["k1", "k2", "k3"]


def kl_per_token(
    estimator: KlEstimator, log_prob_T: torch.Tensor, reference_log_prob_T: torch.Tensor
) -> torch.Tensor:
    """Return k1, k2 or k3 of every token, T, in nats, detached: a number to report."""
    k1_T = log_prob_T.detach() - reference_log_prob_T
    match estimator:
        case "k1":
            return k1_T
        case "k2":
            return k1_T.square() / 2.0
        case "k3":
            return torch.expm1(-k1_T) + k1_T


def kl_loss(
    estimator: KlEstimator,
    log_prob_T: torch.Tensor,
    reference_log_prob_T: torch.Tensor,
    weight_T: torch.Tensor,
    row_T: torch.Tensor,
    num_rows: int,
    num_tokens_global: int,
) -> torch.Tensor:
    """Return a micro-batch's share of a loss whose gradient is that of KL(pi || pi_ref).

    The gradient is sum_t weight_t c_t grad log pi(t) / num_tokens_global with c_t as above. The
    value is that of the surrogate sum_t weight_t sg[c_t] log pi(t) / num_tokens_global and means
    nothing; report `kl_per_token`.

    Args:
        estimator: k1: exact for whole responses; k2 and k3: token by token, one and the same.
        log_prob_T: log pi of the response tokens, with gradient.
        reference_log_prob_T: log pi_ref of the same tokens.
        weight_T: Importance weights to the samples' policy, detached; ones where that is pi. k1
            stays exact with the ratio of the whole response at each of its tokens.
        row_T: int64, the micro-batch row of each token, ascending.
        num_rows: Rows of the micro-batch.
        num_tokens_global: The divisor, for all micro-batches and ranks; beta is reward per nat of
            a response where it is also that of the RL loss.
    """
    coefficient_T = (log_prob_T.detach() - reference_log_prob_T).double()
    if estimator == "k1":
        coefficient_T = _sum_from_here(coefficient_T, row_T, num_rows)
    coefficient_T = coefficient_T.to(log_prob_T.dtype)
    return (weight_T * coefficient_T * log_prob_T).sum() / num_tokens_global


def _sum_from_here(value_T: torch.Tensor, row_T: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return, for every token, the sum over its row from it on; rows are contiguous."""
    up_to_here_T = value_T.cumsum(0)
    row_sum_B = value_T.new_zeros(num_rows).index_add(0, row_T, value_T)
    return row_sum_B.cumsum(0)[row_T] - up_to_here_T + value_T
