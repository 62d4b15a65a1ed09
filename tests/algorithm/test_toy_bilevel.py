"""docs/algorithm.md section 9, item 7: the updates reach the optimum of the relaxed problem.

    max_{theta, w}  F = (1 - lambda) J_SFT(theta, w) - lambda ( max_theta' J_RL(theta', w) - J_RL )
    J_RL = E[R] - beta KL(pi || pi_ref),  beta > 0 (else the optimum is at infinity)

Responses have two tokens and are enumerated; every one is among the demonstrations, so that J_SFT
keeps w finite. theta is a bias per token, fewer numbers than the table of logits to which w, a
product of rank 1, is added, so theta cannot absorb w. In the last test theta is the whole table.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from coop_rl.algorithm.bracket import adapter_gradient
from coop_rl.algorithm.kl import kl_loss
from coop_rl.algorithm.losses import rl_loss, sft_loss
from coop_rl.types import AdapterGradients, PolicyVersion

Tensors = dict[str, torch.Tensor]
VOCABULARY, LENGTH = 3, 2
BIAS, TABLE = (VOCABULARY,), (VOCABULARY + 1, VOCABULARY)
MIX, BETA, LR, NUM_STEPS = 0.5, 0.4, 1.0, 700
VERSION = PolicyVersion(0, 0)
NO_CAP = float("inf")
SEQUENCES_NL = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
LAST_NL = torch.cat([torch.full((len(SEQUENCES_NL), 1), VOCABULARY), SEQUENCES_NL[:, :-1]], dim=1)
ROW_T = torch.arange(len(SEQUENCES_NL)).repeat_interleave(LENGTH)
REWARD_N = torch.tensor([0.0, 0.2, 1.0, 0.1, 0.0, 0.3, 0.9, 0.0, 0.4], dtype=torch.float64)
DEMONSTRATIONS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 1, 4, 4, 8, 6])
"""Sequences by number."""


def randn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zeros(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def adapter(left: torch.Tensor, right: torch.Tensor) -> Tensors:
    return {"left": left, "right": right}


START_LOGITS = randn(TABLE, seed=2)
"""[last token, or 3 before the first][next token]; pi_ref."""
NO_ADAPTER = adapter(zeros((VOCABULARY + 1, 1)), zeros((1, VOCABULARY)))


def token_log_probs(theta: torch.Tensor, w: Tensors) -> torch.Tensor:
    """NL; theta is a bias per token or a whole table."""
    table = (START_LOGITS + theta + w["left"] @ w["right"]).log_softmax(-1)
    return table[LAST_NL, SEQUENCES_NL]


def policy(theta: torch.Tensor, w: Tensors) -> torch.Tensor:
    """N: the probability of every response."""
    return token_log_probs(theta, w).sum(1).exp()


REFERENCE_NL = token_log_probs(zeros(BIAS), NO_ADAPTER)


# The updates of section 3, from the product's functions.


@dataclass
class Point:
    theta: torch.Tensor
    shadow: torch.Tensor
    w: Tensors


def start(theta_shape: tuple[int, ...]) -> Point:
    w = adapter(randn((VOCABULARY + 1, 1), seed=1), zeros((1, VOCABULARY)))
    return Point(zeros(theta_shape), zeros(theta_shape), w)


def gradients(
    loss: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor, w: Tensors
) -> tuple[torch.Tensor, Tensors]:
    """Gradient of a loss of the token log-probs, with respect to theta and to w."""
    leaves = [value.detach().requires_grad_() for value in (theta, *w.values())]
    log_prob_NL = token_log_probs(leaves[0], dict(zip(w, leaves[1:], strict=True)))
    of_theta, *of_w = torch.autograd.grad(loss(log_prob_NL), leaves)
    return of_theta, dict(zip(w, of_w, strict=True))


def rl_loss_of(log_prob_NL: torch.Tensor, behaviour_NL: torch.Tensor) -> torch.Tensor:
    """L_RL on theta's rollouts: every response, by its probability."""
    log_prob_T, num_rows = log_prob_NL.reshape(-1), len(SEQUENCES_NL)
    advantage_N = behaviour_NL.sum(1).exp() * REWARD_N
    reward_loss, _ = rl_loss(
        log_prob_T, behaviour_NL.reshape(-1), ROW_T, advantage_N, num_rows, 1, NO_CAP
    )
    weight_T = log_prob_NL.detach().sum(1).exp()[ROW_T]
    reference_T = REFERENCE_NL.reshape(-1)
    return reward_loss + BETA * kl_loss("k1", log_prob_T, reference_T, weight_T, ROW_T, num_rows, 1)


def sft_loss_of(log_prob_NL: torch.Tensor) -> torch.Tensor:
    log_prob_T = log_prob_NL[DEMONSTRATIONS].reshape(-1)
    return sft_loss(log_prob_T, len(log_prob_T))


def update(point: Point, shadow_sign: float, w_objective: str) -> Point:
    """One meta-step: all gradients first, then all updates."""
    behaviour_NL = token_log_probs(point.theta, point.w)

    def shared_rl_loss(log_prob_NL: torch.Tensor) -> torch.Tensor:
        return rl_loss_of(log_prob_NL, behaviour_NL)

    rl, w_rl = gradients(shared_rl_loss, point.theta, point.w)
    sft, w_sft = gradients(sft_loss_of, point.theta, point.w)
    shadow_rl, w_shadow = gradients(shared_rl_loss, point.shadow, point.w)
    joint = AdapterGradients("joint", VERSION, w_rl, w_sft)
    shadow = AdapterGradients("shadow", VERSION, w_shadow, {})
    w_gradient, _ = adapter_gradient(w_objective, MIX, joint, shadow, torch.Generator())
    return Point(
        point.theta - LR * ((1.0 - MIX) * sft + MIX * rl),
        point.shadow - shadow_sign * LR * shadow_rl,
        {name: value - LR * w_gradient[name] for name, value in point.w.items()},
    )


def run(
    theta_shape: tuple[int, ...], shadow_sign: float = 1.0, w_objective: str = "cooperative"
) -> Point:
    point = start(theta_shape)
    for _ in range(NUM_STEPS):
        point = update(point, shadow_sign, w_objective)
    return point


# The direct solver, from probabilities.


def j_rl_of(log_p_N: torch.Tensor) -> torch.Tensor:
    return (log_p_N.exp() * (REWARD_N - BETA * (log_p_N - REFERENCE_NL.sum(1)))).sum()


def j_rl(theta: torch.Tensor, w: Tensors) -> torch.Tensor:
    return j_rl_of(token_log_probs(theta, w).sum(1))


def j_sft_of(log_p_N: torch.Tensor) -> torch.Tensor:
    return log_p_N[DEMONSTRATIONS].mean() / LENGTH


def climb(function: Callable[..., torch.Tensor], values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Maximise."""
    leaves = [value.clone().requires_grad_() for value in values]
    optimizer = torch.optim.LBFGS(
        leaves,
        max_iter=200,
        tolerance_grad=1e-11,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -function(*leaves)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    return [leaf.detach() for leaf in leaves]


def highest_j_rl(w: Tensors, first: torch.Tensor) -> torch.Tensor:
    """max_theta' J_RL(theta', w), climbing from `first`; its gradient in w is Danskin's."""
    fixed = {name: value.detach() for name, value in w.items()}
    (best,) = climb(lambda theta: j_rl(theta, fixed), [first])
    return j_rl(best, w)


def relaxed(theta: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """F."""
    w = adapter(left, right)
    log_p_N = token_log_probs(theta, w).sum(1)
    penalty = highest_j_rl(w, zeros(BIAS)) - j_rl_of(log_p_N)
    return (1.0 - MIX) * j_sft_of(log_p_N) - MIX * penalty


def relaxed_at(point: Point) -> float:
    return relaxed(point.theta, *point.w.values()).item()


def distance(first_N: torch.Tensor, second_N: torch.Tensor) -> float:
    """Total variation."""
    return 0.5 * float((first_N - second_N).abs().sum())


@pytest.fixture(scope="module")
def optima() -> list[Point]:
    """What the direct solver finds from five random starts."""
    shapes = (BIAS, (VOCABULARY + 1, 1), (1, VOCABULARY))
    starts = [[randn(shape, 10 * s + i) for i, shape in enumerate(shapes)] for s in range(5)]
    solutions = [climb(relaxed, values) for values in starts]
    return [Point(theta, zeros(BIAS), adapter(*w)) for theta, *w in solutions]


@pytest.fixture(scope="module")
def reached() -> Point:
    return run(BIAS)


def test_updates_reach_the_optimum_of_the_relaxed_problem(optima, reached) -> None:
    values = [relaxed_at(point) for point in optima]
    assert relaxed_at(reached) == pytest.approx(max(values), abs=1e-6)
    best = optima[values.index(max(values))]
    assert distance(policy(reached.theta, reached.w), policy(best.theta, best.w)) < 1e-3
    assert relaxed_at(start(BIAS)) < max(values) - 0.1


def test_the_shadow_reaches_the_inner_maximum_which_theta_does_not(reached) -> None:
    highest = max(highest_j_rl(reached.w, 3.0 * randn(BIAS, seed)).item() for seed in range(10))
    assert j_rl(reached.shadow, reached.w).item() == pytest.approx(highest, abs=1e-6)
    assert j_rl(reached.theta, reached.w).item() < highest - 0.01


def test_w_matters_here(optima) -> None:
    (theta,) = climb(lambda theta: relaxed(theta, *NO_ADAPTER.values()), [zeros(BIAS)])
    frozen = relaxed_at(Point(theta, zeros(BIAS), NO_ADAPTER))
    assert frozen < max(relaxed_at(point) for point in optima) - 0.05


@pytest.mark.parametrize(
    ("shadow_sign", "w_objective"),
    [(-1.0, "cooperative"), (1.0, "mixture"), (1.0, "sft")],
    ids=["shadow_descends", "no_shadow", "sft_only"],
)
def test_other_updates_end_elsewhere(optima, reached, shadow_sign, w_objective) -> None:
    wrong = run(BIAS, shadow_sign, w_objective)
    assert relaxed_at(wrong) < max(relaxed_at(point) for point in optima) - 0.02
    assert distance(policy(wrong.theta, wrong.w), policy(reached.theta, reached.w)) > 0.2
    is_shadow_best = j_rl(wrong.shadow, wrong.w) > j_rl(wrong.theta, wrong.w)
    assert bool(is_shadow_best) == (shadow_sign > 0.0)


def test_where_theta_absorbs_w_the_inner_maximum_is_that_of_all_policies() -> None:
    """Then max_theta' J_RL = beta log sum pi_ref exp(R / beta) for any w, with gradient 0 in w."""
    point = run(TABLE)
    reference_N = REFERENCE_NL.sum(1).exp()
    highest = BETA * (reference_N * (REWARD_N / BETA).exp()).sum().log().item()
    assert j_rl(point.shadow, point.w).item() == pytest.approx(highest, abs=1e-6)
    behaviour_NL = token_log_probs(point.shadow, point.w)
    _, danskin = gradients(lambda lp: rl_loss_of(lp, behaviour_NL), point.shadow, point.w)
    assert max(float(value.abs().max()) for value in danskin.values()) < 1e-4

    def free(logits_N: torch.Tensor) -> torch.Tensor:
        log_p_N = logits_N.log_softmax(0)
        return (1.0 - MIX) * j_sft_of(log_p_N) + MIX * j_rl_of(log_p_N)

    (logits_N,) = climb(free, [zeros((len(SEQUENCES_NL),))])
    assert distance(policy(point.theta, point.w), logits_N.softmax(0)) < 1e-3
