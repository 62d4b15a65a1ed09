"""docs/algorithm.md section 9, item 3: the bracket against exact answers, by enumeration."""

import itertools
from dataclasses import dataclass

import pytest
import torch

from coop_rl.algorithm.bracket import adapter_gradient
from coop_rl.algorithm.losses import rl_loss
from coop_rl.types import AdapterGradients, PolicyVersion

NO_CAP = float("inf")
VERSION = PolicyVersion(3, 3)


@dataclass
class EnumerablePolicy:
    """Autoregressive policy over `vocabulary` tokens and `length` steps with shared parameters.

    logits(next | last) = (theta + w_a w_b)[last]: every step uses the same table, so the gradient
    of a token's log-prob has cross-token terms, as in a language model.
    """

    vocabulary: int
    length: int

    def sequences(self) -> torch.Tensor:
        return torch.tensor(list(itertools.product(range(self.vocabulary), repeat=self.length)))

    def token_log_probs(self, theta: torch.Tensor, w: list[torch.Tensor], ids_NL: torch.Tensor):
        table = (theta + w[0] @ w[1]).log_softmax(-1)
        last = torch.cat([torch.full((len(ids_NL), 1), self.vocabulary), ids_NL[:, :-1]], dim=1)
        return table[last, ids_NL]

    def start(self, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        g = torch.Generator().manual_seed(seed)
        theta = torch.randn(self.vocabulary + 1, self.vocabulary, generator=g, dtype=torch.float64)
        w = [
            torch.randn(self.vocabulary + 1, 2, generator=g, dtype=torch.float64),
            torch.randn(2, self.vocabulary, generator=g, dtype=torch.float64),
        ]
        return theta, [t.requires_grad_() for t in w]


POLICY = EnumerablePolicy(vocabulary=3, length=4)


def expected_reward(theta, w, reward_N) -> torch.Tensor:
    log_prob_NL = POLICY.token_log_probs(theta, w, POLICY.sequences())
    return (log_prob_NL.sum(1).exp() * reward_N).sum()


def loss_gradient(theta, w, ids_NL, behaviour_NL, advantage_N, cap=NO_CAP) -> list[torch.Tensor]:
    """Gradient of the product's `rl_loss` with respect to w."""
    log_prob_T = POLICY.token_log_probs(theta, w, ids_NL).reshape(-1)
    row_T = torch.arange(len(ids_NL)).repeat_interleave(POLICY.length)
    loss, _ = rl_loss(log_prob_T, behaviour_NL.reshape(-1), row_T, advantage_N, len(ids_NL), 1, cap)
    return list(torch.autograd.grad(loss, w))


@pytest.fixture
def setting():
    theta, w = POLICY.start(0)
    shadow = theta + 0.3 * torch.randn(
        theta.shape, generator=torch.Generator().manual_seed(5), dtype=theta.dtype
    )
    reward_N = torch.rand(3**4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        behaviour_NL = POLICY.token_log_probs(theta, w, POLICY.sequences())
    return theta, shadow, w, reward_N, behaviour_NL


def exact_bracket(theta, shadow, w, reward_N) -> list[torch.Tensor]:
    gap = expected_reward(theta, w, reward_N) - expected_reward(shadow, w, reward_N)
    return list(torch.autograd.grad(gap, w))


def as_gradients(branch, tensors) -> AdapterGradients:
    return AdapterGradients(branch, VERSION, {str(i): t for i, t in enumerate(tensors)}, {})


def largest_error(got, want) -> float:
    return max(float((g - w).abs().max()) for g, w in zip(got, want, strict=True))


def test_reweighted_bracket_is_the_exact_difference_of_gradients(setting) -> None:
    theta, shadow, w, reward_N, behaviour_NL = setting
    ids_NL = POLICY.sequences()
    weight_N = (
        behaviour_NL.sum(1).exp() * reward_N
    )  # enumeration: each sequence counts by its probability
    joint = loss_gradient(theta, w, ids_NL, behaviour_NL, weight_N)
    of_shadow = loss_gradient(shadow, w, ids_NL, behaviour_NL, weight_N)
    gradient, stats = adapter_gradient(
        "cooperative",
        1.0,
        as_gradients("joint", joint),
        as_gradients("shadow", of_shadow),
        torch.Generator(),
    )
    want = exact_bracket(theta, shadow, w, reward_N)
    assert largest_error([-g for g in gradient.values()], want) < 1e-9
    assert stats.bracket_norm > 1e-3


def test_token_level_ratio_and_no_ratio_are_wrong_here(setting) -> None:
    theta, shadow, w, reward_N, behaviour_NL = setting
    ids_NL = POLICY.sequences()
    weight_N = behaviour_NL.sum(1).exp() * reward_N
    want = exact_bracket(theta, shadow, w, reward_N)

    def biased(branch, ratio) -> list[torch.Tensor]:
        log_prob_NL = POLICY.token_log_probs(branch, w, ids_NL)
        ratio_NL = ratio(log_prob_NL.detach())
        return list(torch.autograd.grad((weight_N[:, None] * ratio_NL * log_prob_NL).sum(), w))

    for ratio in (lambda lp: (lp - behaviour_NL).exp(), torch.ones_like):
        bracket = [a - b for a, b in zip(biased(theta, ratio), biased(shadow, ratio), strict=True)]
        assert largest_error(bracket, want) > 1e-2


def test_denominators_under_the_shadow_give_no_signal(setting) -> None:
    """Scoring theta's samples with ratio 1 on a bandit makes the bracket vanish, which is wrong."""
    _, shadow, w, reward_N, behaviour_NL = setting
    ids_NL = POLICY.sequences()
    weight_N = behaviour_NL.sum(1).exp() * reward_N
    with torch.no_grad():
        recomputed_NL = POLICY.token_log_probs(shadow, w, ids_NL)
    right = loss_gradient(shadow, w, ids_NL, behaviour_NL, weight_N)
    wrong = loss_gradient(shadow, w, ids_NL, recomputed_NL, weight_N)
    assert largest_error(right, wrong) > 1e-2


def test_bracket_is_exactly_zero_at_equal_branches(setting) -> None:
    theta, _, w, reward_N, behaviour_NL = setting
    ids_NL = POLICY.sequences()
    joint = loss_gradient(theta, w, ids_NL, behaviour_NL, reward_N)
    of_shadow = loss_gradient(theta.clone(), w, ids_NL, behaviour_NL, reward_N)
    gradient, stats = adapter_gradient(
        "cooperative",
        0.5,
        as_gradients("joint", joint),
        as_gradients("shadow", of_shadow),
        torch.Generator(),
    )
    assert stats.bracket_norm == 0.0
    assert all(bool((g == 0).all()) for g in gradient.values())


def test_cap_limits_the_weight_but_zeroes_no_gradient(setting) -> None:
    theta, shadow, w, reward_N, behaviour_NL = setting
    ids_NL = POLICY.sequences()
    far = shadow + 3.0 * (shadow - theta)
    log_prob_NL = POLICY.token_log_probs(far, w, ids_NL)
    weight_N = (log_prob_NL - behaviour_NL).sum(1).exp().detach()
    assert bool((weight_N > 1.5).any())
    want = torch.autograd.grad((weight_N.clamp(max=1.5) * reward_N * log_prob_NL.sum(1)).sum(), w)
    got = loss_gradient(far, w, ids_NL, behaviour_NL, reward_N, cap=1.5)
    assert largest_error([-g for g in got], want) < 1e-9


def test_fresh_rollouts_agree_in_mean_and_vary_more(setting) -> None:
    """Samples of the shadow itself estimate the same bracket, without common random numbers."""
    theta, shadow, w, reward_N, behaviour_NL = setting
    ids_NL = POLICY.sequences()
    with torch.no_grad():
        shadow_NL = POLICY.token_log_probs(shadow, w, ids_NL)
    want = torch.cat([g.reshape(-1) for g in exact_bracket(theta, shadow, w, reward_N)])
    generator = torch.Generator().manual_seed(1)

    def draw(log_prob_NL, count) -> torch.Tensor:
        return torch.multinomial(
            log_prob_NL.sum(1).exp(), count, replacement=True, generator=generator
        )

    def estimate(branch, picked_N, sampler_NL) -> torch.Tensor:
        grads = loss_gradient(branch, w, ids_NL[picked_N], sampler_NL[picked_N], reward_N[picked_N])
        return -torch.cat([g.reshape(-1) for g in grads]) / len(picked_N)

    reweighted, fresh = [], []
    for _ in range(400):
        shared_N, own_N = draw(behaviour_NL, 64), draw(shadow_NL, 64)
        joint = estimate(theta, shared_N, behaviour_NL)
        reweighted.append(joint - estimate(shadow, shared_N, behaviour_NL))
        fresh.append(joint - estimate(shadow, own_N, shadow_NL))
    for drawn in (torch.stack(reweighted), torch.stack(fresh)):
        stderr = drawn.std(0) / len(drawn) ** 0.5
        assert bool(((drawn.mean(0) - want).abs() < 4.5 * stderr).all())
    assert torch.stack(fresh).var(0).sum() > 1.5 * torch.stack(reweighted).var(0).sum()
