"""KL values against the definition, and the gradient of the KL loss by enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

from coop_rl.algorithm.kl import KlEstimator, kl_loss, kl_per_token
from tests.algorithm.test_bracket import EnumerablePolicy

ESTIMATORS: tuple[KlEstimator, ...] = ("k1", "k2", "k3")


class Enumerated:
    """A policy with shared parameters, its reference, and all responses of some length."""

    def __init__(self, length: int, seed: int = 0) -> None:
        self.policy = EnumerablePolicy(vocabulary=3, length=length)
        theta, w = self.policy.start(seed)
        self.w = [t.detach() for t in w]
        generator = torch.Generator().manual_seed(17 + seed)
        noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
        self.theta = theta.requires_grad_()
        self.ids_NL = self.policy.sequences()
        self.reference_NL = self.score(theta.detach() + 0.8 * noise)

    def score(self, theta: torch.Tensor) -> torch.Tensor:
        return self.policy.token_log_probs(theta, self.w, self.ids_NL)

    def exact(self, reverse: bool = False) -> torch.Tensor:
        """Gradient of KL(pi || ref) over whole responses; `reverse`: of KL(ref || pi)."""
        log_prob_N = self.score(self.theta).sum(1)
        reference_N = self.reference_NL.sum(1)
        if reverse:
            divergence = (reference_N.exp() * (reference_N - log_prob_N)).sum()
        else:
            divergence = (log_prob_N.exp() * (log_prob_N - reference_N)).sum()
        return torch.autograd.grad(divergence, self.theta)[0]

    def expected(self, estimator, weight_N: torch.Tensor | None = None) -> torch.Tensor:
        """Gradient of the product's loss, every response by its probability (or `weight_N`)."""
        log_prob_NL = self.score(self.theta)
        weight_N = log_prob_NL.detach().sum(1).exp() if weight_N is None else weight_N
        length, count = self.policy.length, len(self.ids_NL)
        loss = kl_loss(
            estimator,
            log_prob_NL.reshape(-1),
            self.reference_NL.reshape(-1),
            weight_N.repeat_interleave(length),
            torch.arange(count).repeat_interleave(length),
            count,
            1,
        )
        return torch.autograd.grad(loss, self.theta)[0]

    def naive(self, estimator) -> torch.Tensor:
        """Gradient of the mean of k1 or k3, differentiated as it stands."""
        log_prob_NL = self.score(self.theta)
        k1_NL = log_prob_NL - self.reference_NL
        value_NL = k1_NL if estimator == "k1" else (-k1_NL).exp() - 1 + k1_NL
        mean = (log_prob_NL.detach().sum(1).exp() * value_NL.sum(1)).sum()
        return torch.autograd.grad(mean, self.theta)[0]


def distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_k1_loss_has_the_exact_gradient_of_the_responses_kl(length: int, seed: int) -> None:
    scene = Enumerated(length, seed)
    assert distance(scene.expected("k1"), scene.exact()) < 1e-9


@pytest.mark.parametrize("length", [3, 4])
def test_token_by_token_and_naive_losses_are_wrong_for_several_tokens(length: int) -> None:
    scene = Enumerated(length)
    for gradient in (
        scene.expected("k2"),
        scene.expected("k3"),
        scene.naive("k1"),
        scene.naive("k3"),
    ):
        assert distance(gradient, scene.exact()) > 0.05


@pytest.mark.parametrize("length", [1, 4])
def test_naive_k1_has_no_gradient_on_average(length: int) -> None:
    scene = Enumerated(length)
    assert float(scene.naive("k1").abs().max()) < 1e-12


def test_one_token_is_exact_either_way_and_naive_k3_descends_the_other_divergence() -> None:
    scene = Enumerated(1)
    for estimator in ESTIMATORS:
        assert distance(scene.expected(estimator), scene.exact()) < 1e-12
    assert distance(scene.naive("k3"), scene.exact(reverse=True)) < 1e-12
    assert distance(scene.naive("k3"), scene.exact()) > 0.05


def test_k1_stays_exact_on_an_older_policys_responses_with_whole_response_weights() -> None:
    scene = Enumerated(3)
    shifted = scene.theta.detach() + 0.4 * torch.randn(
        scene.theta.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    old_N = scene.score(shifted).sum(1)
    ratio_N = (scene.score(scene.theta).detach().sum(1) - old_N).exp()
    assert distance(scene.expected("k1", old_N.exp() * ratio_N), scene.exact()) < 1e-9
    assert distance(scene.expected("k1", old_N.exp()), scene.exact()) > 0.05


def ragged(seed: int):
    """Rows of 1 to 6 tokens and an empty one, with weights that differ by token."""
    rng = np.random.default_rng(seed)
    lengths = [1, 6, 0, 3, 1, 4]
    row_T = np.repeat(np.arange(len(lengths)), lengths)
    log_prob_T, reference_T = -rng.exponential(size=(2, len(row_T)))
    return row_T, log_prob_T, reference_T, rng.uniform(0.2, 2.0, size=len(row_T)), len(lengths)


def loss_of(estimator, rows, scene) -> tuple[float, np.ndarray]:
    """Loss and gradient by log pi of some rows, in their order, zeros elsewhere."""
    row_T, log_prob_T, reference_T, weight_T, _ = scene
    index = np.concatenate([np.flatnonzero(row_T == row) for row in rows])
    lengths = [int((row_T == row).sum()) for row in rows]
    leaf_T = torch.tensor(log_prob_T, requires_grad=True)
    loss = kl_loss(
        estimator,
        leaf_T[index],
        torch.tensor(reference_T[index]),
        torch.tensor(weight_T[index]),
        torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths)),
        len(rows),
        11,
    )
    return float(loss.detach()), torch.autograd.grad(loss, leaf_T)[0].numpy()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", range(5))
def test_loss_is_that_of_the_equation_on_ragged_rows(estimator, seed: int) -> None:
    scene = ragged(seed)
    row_T, log_prob_T, reference_T, weight_T, num_rows = scene
    want_loss, want_T = 0.0, np.zeros(len(row_T))
    for t, row in enumerate(row_T):
        coefficient = 0.0
        for s in range(t, len(row_T)):
            if row_T[s] == row and (estimator == "k1" or s == t):
                coefficient += log_prob_T[s] - reference_T[s]
        want_T[t] = weight_T[t] * coefficient / 11
        want_loss += want_T[t] * log_prob_T[t]
    loss, got_T = loss_of(estimator, range(num_rows), scene)
    np.testing.assert_allclose(got_T, want_T, rtol=1e-10, atol=1e-15)
    assert loss == pytest.approx(want_loss, rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_split_and_order_of_rows_gives_the_same(estimator) -> None:
    scene = ragged(9)
    whole_loss, whole_T = loss_of(estimator, range(6), scene)
    for splits in ([[3, 1], [2], [5, 0, 4]], [[5, 4, 3, 2, 1, 0]]):
        parts = [loss_of(estimator, rows, scene) for rows in splits]
        assert abs(sum(loss for loss, _ in parts) - whole_loss) < 1e-12
        assert np.abs(sum(gradient_T for _, gradient_T in parts) - whole_T).max() < 1e-12


def test_an_anchor_row_alone_has_no_kl_but_can_be_differentiated() -> None:
    loss, gradient_T = loss_of("k1", [2], ragged(0))
    assert loss == 0.0
    assert not gradient_T.any()


def test_values_are_those_of_the_definition_and_carry_no_gradient() -> None:
    pairs = list(itertools.product([-3.0, -0.7, -0.01], [-2.0, -0.7, -0.02]))
    log_prob_T = torch.tensor([a for a, _ in pairs], dtype=torch.float64, requires_grad=True)
    reference_T = torch.tensor([b for _, b in pairs], dtype=torch.float64)
    for estimator in ESTIMATORS:
        got_T = kl_per_token(estimator, log_prob_T, reference_T)
        assert not got_T.requires_grad
        for got, (a, b) in zip(got_T.tolist(), pairs, strict=True):
            k1 = a - b
            want = {"k1": k1, "k2": k1 * k1 / 2, "k3": math.exp(-k1) - 1 + k1}[estimator]
            assert got == pytest.approx(want, abs=1e-14)


def test_k1_and_k3_are_unbiased_values_and_k3_is_never_negative() -> None:
    scene = Enumerated(1)
    log_prob_T = scene.score(scene.theta).detach().reshape(-1)
    reference_T = scene.reference_NL.reshape(-1)
    exact = float((log_prob_T.exp() * (log_prob_T - reference_T)).sum())
    means = {
        estimator: float(
            (log_prob_T.exp() * kl_per_token(estimator, log_prob_T, reference_T)).sum()
        )
        for estimator in ESTIMATORS
    }
    assert means["k1"] == pytest.approx(exact, rel=1e-12)
    assert means["k3"] == pytest.approx(exact, rel=1e-12)
    assert abs(means["k2"] - exact) > 1e-3
    assert bool((kl_per_token("k3", log_prob_T, reference_T) >= 0).all())
