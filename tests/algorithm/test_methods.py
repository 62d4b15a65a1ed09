"""The rules of the rivals, against plain references written from their equations."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from coop_rl.algorithm.losses import phi_weighted_sft_loss
from coop_rl.algorithm.methods import METHODS, Method, build_method
from coop_rl.config import load_config
from coop_rl.types import Objective

DEMO = Path("configs/local/demo.yaml")


def method(kind: str, *overrides: str) -> Method:
    return build_method(
        load_config(DEMO, [f"method.kind={kind}", *(f"method.{o}" for o in overrides)])
    )


@pytest.mark.parametrize("kind", METHODS)
def test_only_bridge_has_a_shadow(kind: str) -> None:
    assert method(kind).uses_shadow == (kind == "bridge")


def test_sum_adds_both_losses_at_every_step() -> None:
    assert {method("sum").objective(k) for k in range(5)} == {Objective(1.0, 1.0)}
    assert method("sum", "mu=0.3").objective(7) == Objective(1.0, 0.3)


def test_alternate_takes_turns_with_a_rate_of_its_own() -> None:
    built = method("alternate", "sft_lr_scale=10")
    assert built.objective(0) == built.objective(4) == Objective(1.0, 0.0)
    assert built.objective(1) == built.objective(5) == Objective(0.0, 1.0, lr_scale=10.0)


def reference_mu(step, warmup, decay, peak, valley):
    if step < warmup:
        return step / warmup * peak
    if step >= warmup + decay:
        return valley
    return (peak - valley) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay)) + valley


@pytest.mark.parametrize("warmup", [0, 10])
def test_chord_fades_mu_along_a_cosine(warmup: int) -> None:
    objective = method("chord", f"mu_warmup_steps={warmup}").objective
    for step in (0, 1, 5, 10, 60, 110, 199, 209, 210, 1000):
        mu = reference_mu(step, warmup, 200, 0.9, 0.05)
        got = objective(step)
        assert got.sft_weight == pytest.approx(mu, abs=1e-12)
        assert got.rl_weight == pytest.approx(1 - mu, abs=1e-12)
        assert not got.is_phi_weighted
    assert objective(warmup).sft_weight == pytest.approx(0.9)


def test_chord_phi_has_the_papers_constant_mu() -> None:
    objective = method("chord", "phi=true").objective
    for step in (0, 100, 500):
        assert objective(step) == Objective(0.9, 0.1, is_phi_weighted=True)


def test_phi_weighted_loss_and_gradient_equal_the_equation() -> None:
    """d/dz of -1/T sum_t sg[p_t(1-p_t)] log p_t, p = softmax(z): by hand, in numpy fp64."""
    generator = np.random.default_rng(0)
    logits_TV = generator.normal(size=(6, 5)) * 3
    target_T = generator.integers(0, 5, size=6)
    probability_TV = np.exp(logits_TV) / np.exp(logits_TV).sum(1, keepdims=True)
    p_T = probability_TV[np.arange(6), target_T]
    weight_T = p_T * (1 - p_T)
    expected_loss = -(weight_T * np.log(p_T)).sum() / 11
    expected_TV = -weight_T[:, None] * (np.eye(5)[target_T] - probability_TV) / 11

    logits = torch.tensor(logits_TV, requires_grad=True)
    log_prob_T = logits.log_softmax(-1)[torch.arange(6), torch.tensor(target_T)]
    loss = phi_weighted_sft_loss(log_prob_T, 11)
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected_TV, rtol=1e-10, atol=1e-14)
    # Sure tokens, right or wrong, count less than doubtful ones.
    sure = torch.tensor([math.log(0.999), math.log(0.001), math.log(0.5)], dtype=torch.float64)
    terms = [phi_weighted_sft_loss(value[None], 1) / -value for value in sure]
    assert terms[2] > 100 * max(terms[0], terms[1])
