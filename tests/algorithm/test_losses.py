"""The losses of demonstrations against their equations, by hand in numpy fp64."""

import math

import numpy as np
import pytest
import torch

from coop_rl.algorithm.losses import demonstration_loss, sft_loss
from coop_rl.types import DemonstrationLoss

KINDS: tuple[DemonstrationLoss, ...] = ("nll", "phi", "shaped")
NUM_TOKENS, NUM_ROWS, MAX_TOKENS = 11, 3, 9
LIKELIHOODS = (0.001, 0.01, 0.05, 0.1, 0.3, 0.6, 0.9, 0.999)


def reference(kind: DemonstrationLoss, p: float, c: float) -> tuple[float, float]:
    """(term of a token of probability p and weight c, its derivative by log p)."""
    if kind == "nll":
        return -c * math.log(p) / NUM_TOKENS, -c / NUM_TOKENS
    if kind == "phi":
        phi = p * (1 - p)
        return -c * phi * math.log(p) / NUM_TOKENS, -c * phi / NUM_TOKENS
    divisor = NUM_ROWS * MAX_TOKENS
    return -c * p / (p + 0.1) / divisor, -c * 0.1 / (p + 0.1) ** 2 * p / divisor


def take(kind: DemonstrationLoss, log_prob_T: torch.Tensor, weight_T: torch.Tensor) -> torch.Tensor:
    return demonstration_loss(kind, log_prob_T, weight_T, NUM_TOKENS, NUM_ROWS, MAX_TOKENS)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_by_logits_are_those_of_the_equation(kind: DemonstrationLoss) -> None:
    rng = np.random.default_rng(0)
    logits_TV = rng.normal(size=(6, 5)) * 3
    target_T = rng.integers(0, 5, size=6)
    c_T = rng.normal(size=6)
    c_T[2] = 0.0
    probability_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(1, keepdims=True)
    terms = [reference(kind, probability_TV[t, target_T[t]], c) for t, c in enumerate(c_T.tolist())]
    slope_T = np.array([slope for _, slope in terms])
    expected_TV = slope_T[:, None] * (np.eye(5)[target_T] - probability_TV)

    logits = torch.tensor(logits_TV, requires_grad=True)
    log_prob_T = logits.log_softmax(-1)[torch.arange(6), torch.tensor(target_T)]
    loss = take(kind, log_prob_T, torch.tensor(c_T))
    loss.backward()
    assert loss.item() == pytest.approx(sum(value for value, _ in terms), rel=1e-12)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected_TV, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_micro_batches_add_up(kind: DemonstrationLoss) -> None:
    rng = np.random.default_rng(1)
    log_prob_T, weight_T = torch.tensor(-rng.random(8)), torch.tensor(rng.normal(size=8))
    parts = [take(kind, log_prob_T[i:j], weight_T[i:j]) for i, j in ((0, 3), (3, 3), (3, 8))]
    want = take(kind, log_prob_T, weight_T).item()
    assert torch.stack(parts).sum().item() == pytest.approx(want, rel=1e-12)


def test_unweighted_nll_is_bit_for_bit_the_plain_sum() -> None:
    generator = torch.Generator().manual_seed(2)
    log_prob_T = -torch.rand(1000, generator=generator) * 7
    want = -log_prob_T.sum() / 997
    assert torch.equal(sft_loss(log_prob_T, 997), want)
    got = demonstration_loss("nll", log_prob_T, torch.ones(1000), 997, NUM_ROWS, MAX_TOKENS)
    assert torch.equal(got, want)


def pull(kind: DemonstrationLoss, p: float) -> float:
    """-dL/dp of one token of weight 1, without the divisor: what its probability is raised by."""
    probability = torch.tensor([p], dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, dtype=torch.float64)
    demonstration_loss(kind, probability.log(), weight, 1, 1, 1).backward()
    assert probability.grad is not None
    return -float(probability.grad)


def test_shaping_favours_improbable_tokens_within_a_bound() -> None:
    slopes = [pull("shaped", p) for p in LIKELIHOODS]
    assert slopes == sorted(slopes, reverse=True)
    # The unshaped ratio pi / 1 would raise all alike.
    assert slopes[0] > 9.0
    assert slopes[-1] < 0.1
    assert max(slopes) < 1 / 0.1


def test_phi_spares_tokens_the_policy_is_sure_of() -> None:
    weights = {p: pull("phi", p) / pull("nll", p) for p in (0.001, 0.5, 0.999)}
    assert weights[0.5] == pytest.approx(0.25)
    assert weights[0.5] > 100 * max(weights[0.001], weights[0.999])
