"""docs/algorithm.md 9, item 3: signs of all three updates on a softmax bandit in closed form.

J(theta, w) = sum_a p_a R_a,  p = softmax(theta + w);   dJ/dtheta_a = p_a (R_a - J)
"""

import pytest
import torch

from coop_rl.algorithm.bracket import adapter_gradient, norm
from coop_rl.algorithm.losses import rl_loss, sft_loss
from coop_rl.types import AdapterGradients, PolicyVersion

REWARD = torch.tensor([0.1, 0.9, 0.3, 0.2], dtype=torch.float64)
EXPERT = 1
ARMS = torch.arange(4)


def value(theta, w) -> torch.Tensor:
    return ((theta + w).softmax(0) * REWARD).sum()


def closed_form(theta, w) -> torch.Tensor:
    p = (theta + w).softmax(0)
    return p * (REWARD - (p * REWARD).sum())


def loss_gradients(branch, behaviour_theta, w) -> tuple[torch.Tensor, torch.Tensor]:
    """(d/dbranch, d/dw) of the RL loss; every arm counts by its probability under the sampler."""
    branch = branch.clone().requires_grad_()
    w = w.clone().requires_grad_()
    sampler = (behaviour_theta + w).detach().log_softmax(0)
    loss, _ = rl_loss(
        (branch + w).log_softmax(0), sampler, ARMS, sampler.exp() * REWARD, 4, 1, float("inf")
    )
    g_theta, g_w = torch.autograd.grad(loss, (branch, w))
    return g_theta, g_w


@pytest.fixture
def start():
    theta = torch.tensor([0.5, -0.2, 0.1, 0.0], dtype=torch.float64)
    shadow = torch.tensor([0.4, 0.1, 0.0, -0.1], dtype=torch.float64)
    return theta, shadow, torch.tensor([0.1, 0.2, -0.1, 0.05], dtype=torch.float64)


def test_rl_gradient_is_the_closed_form_and_ascends(start) -> None:
    theta, _, w = start
    g_theta, _ = loss_gradients(theta, theta, w)
    torch.testing.assert_close(-g_theta, closed_form(theta, w), atol=1e-12, rtol=0)
    assert value(theta - 0.1 * g_theta, w) > value(theta, w)


def test_shadow_ascends_its_own_return_on_shared_samples(start) -> None:
    theta, shadow, w = start
    g_shadow, _ = loss_gradients(shadow, theta, w)
    torch.testing.assert_close(-g_shadow, closed_form(shadow, w), atol=1e-12, rtol=0)
    assert value(shadow - 0.1 * g_shadow, w) > value(shadow, w)


def test_sft_gradient_raises_the_expert_arm(start) -> None:
    theta, _, w = start
    theta = theta.clone().requires_grad_()
    loss = sft_loss((theta + w).log_softmax(0)[EXPERT : EXPERT + 1], 1)
    (g,) = torch.autograd.grad(loss, theta)
    before, after = (t.softmax(0)[EXPERT] for t in (theta + w, theta - 0.1 * g + w))
    assert after > before


def test_w_update_raises_the_cooperative_gain(start) -> None:
    theta, shadow, w = start
    version = PolicyVersion(0, 0)
    joint = AdapterGradients("joint", version, {"w": loss_gradients(theta, theta, w)[1]}, {})
    of_shadow = AdapterGradients("shadow", version, {"w": loss_gradients(shadow, theta, w)[1]}, {})
    gradient, _ = adapter_gradient("cooperative", 1.0, joint, of_shadow, torch.Generator())
    want = closed_form(theta, w) - closed_form(shadow, w)
    torch.testing.assert_close(-gradient["w"], want, atol=1e-12, rtol=0)

    def gain(w) -> torch.Tensor:
        return value(theta, w) - value(shadow, w)

    assert gain(w - 0.1 * gradient["w"]) > gain(w)
    assert gain(w + 0.1 * gradient["w"]) < gain(w)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0])
def test_w_gradient_weighs_sft_and_bracket(penalty: float) -> None:
    version = PolicyVersion(0, 0)
    one, two, three = (torch.full((2,), float(i)) for i in (1, 2, 4))
    joint = AdapterGradients("joint", version, {"a": two}, {"a": one})
    shadow = AdapterGradients("shadow", version, {"a": three}, {})
    generator = torch.Generator().manual_seed(0)
    expected = {
        "cooperative": (1 - penalty) * one + penalty * (two - three),
        "mixture": (1 - penalty) * one + penalty * two,
        "sft": (1 - penalty) * one,
    }
    for objective, want in expected.items():
        got, _ = adapter_gradient(objective, penalty, joint, shadow, generator)
        torch.testing.assert_close(got["a"], want)
    got, stats = adapter_gradient("random", penalty, joint, shadow, generator)
    assert stats.bracket_norm == pytest.approx(float((two - three).norm()))
    assert float((got["a"] - (1 - penalty) * one).norm()) == pytest.approx(
        penalty * stats.bracket_norm, abs=1e-6
    )


def test_the_random_control_has_the_brackets_norm_in_every_tensor() -> None:
    version, generator = PolicyVersion(0, 0), torch.Generator().manual_seed(0)
    joint_rl = {"A": torch.full((40,), 3.0), "B": torch.full((4, 4), 0.01), "C": torch.ones(2)}
    shadow_rl = {"A": torch.zeros(40), "B": torch.zeros(4, 4), "C": torch.ones(2)}
    joint = AdapterGradients("joint", version, joint_rl, {})
    shadow = AdapterGradients("shadow", version, shadow_rl, {})
    got, stats = adapter_gradient("random", 1.0, joint, shadow, generator)
    for name, value in got.items():
        want = (joint_rl[name] - shadow_rl[name]).norm()
        torch.testing.assert_close(value.norm(), want)
    whole, _ = adapter_gradient("cooperative", 1.0, joint, shadow, generator)
    assert stats.bracket_norm == pytest.approx(norm(whole))
