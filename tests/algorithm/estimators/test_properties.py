"""What defines each estimator: one property that the others lack."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from coop_rl.algorithm.estimators import RlEstimator, RolloutCounts, RolloutTokens
from coop_rl.config.estimators import CispoRl, DapoRl, DrGrpoRl, GrpoRl, GspoRl, PpoRl, RlooRl
from tests.algorithm.estimators.scenes import built
from tests.algorithm.test_bracket import EnumerablePolicy

NO_CAP = 1e300


def slopes(
    estimator: RlEstimator, ratios: Sequence[Sequence[float]], advantages: Sequence[float]
) -> list[list[float]]:
    """Return -dL/dlog pi of every token, by response, where pi / pi_old is `ratios`."""
    lengths = [len(r) for r in ratios]
    ratio_T = torch.tensor([r for row in ratios for r in row], dtype=torch.float64)
    log_prob_T = torch.full_like(ratio_T, -0.9).requires_grad_()
    old_T = log_prob_T.detach() - ratio_T.log()
    tokens = RolloutTokens(
        log_prob_T=log_prob_T,
        old_log_prob_T=old_T,
        behaviour_log_prob_T=old_T,
        mismatch_T=torch.ones_like(ratio_T),
        row_T=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        advantage_B=torch.tensor(advantages, dtype=torch.float64),
        length_B=torch.tensor(lengths),
    )
    loss = estimator.loss(tokens, RolloutCounts(sum(lengths), len(lengths))).loss
    (gradient_T,) = torch.autograd.grad(loss, log_prob_T)
    return [(-g).tolist() for g in gradient_T.split(lengths)]


def test_dapo_still_learns_from_a_rising_token_that_ppo_cuts_off() -> None:
    dapo, ppo = built(DapoRl(max_refills=0), 8), built(PpoRl(clip=0.2, dual_clip=None))
    assert slopes(ppo, [[1.25]], [1.0]) == [[0.0]]
    assert slopes(dapo, [[1.25]], [1.0])[0][0] == pytest.approx(1.25)
    assert slopes(dapo, [[1.29]], [1.0]) == [[0.0]]
    for estimator in (dapo, ppo):
        assert slopes(estimator, [[0.79]], [-1.0]) == [[0.0]]


def test_cispo_never_drops_a_token() -> None:
    ratios, advantages = [[1e-3, 0.5, 1.0, 1.5, 40.0]] * 2, [1.0, -1.0]
    got = np.array(slopes(built(CispoRl(clip_low=None, clip_high=0.3)), ratios, advantages))
    weight_T = np.array([1e-3, 0.5, 1.0, 1.3, 1.3])
    np.testing.assert_allclose(got, np.outer(advantages, weight_T) / 10, rtol=1e-12)
    cut = np.array(slopes(built(PpoRl(clip=0.2, dual_clip=3.0)), ratios, advantages))
    assert (cut == 0).sum() == 5


def test_gspo_ratio_does_not_depend_on_length_and_clips_a_response_as_one() -> None:
    estimator = built(GspoRl(clip_low=0.1, clip_high=0.1))
    for length in (1, 2, 7):
        got = slopes(estimator, [[1.05] * length], [1.0])[0]
        np.testing.assert_allclose(got, [1.05 / length] * length, rtol=1e-12)
    mean_within = [1.5, 0.75, 1.0 / (1.5 * 0.75)]
    np.testing.assert_allclose(slopes(estimator, [mean_within], [1.0])[0], [1 / 3] * 3, rtol=1e-12)
    assert slopes(estimator, [[1.5, 1.0, 1.0]], [1.0]) == [[0.0] * 3]


def test_gspo_weighs_engine_mismatch_by_its_geometric_mean() -> None:
    mismatch_T = torch.tensor([0.5, 1.6, 0.9], dtype=torch.float64)
    log_prob_T = torch.full((3,), -1.0, dtype=torch.float64, requires_grad=True)
    tokens = RolloutTokens(
        log_prob_T=log_prob_T,
        old_log_prob_T=log_prob_T.detach(),
        behaviour_log_prob_T=log_prob_T.detach() - mismatch_T.log(),
        mismatch_T=mismatch_T,
        row_T=torch.zeros(3, dtype=torch.int64),
        advantage_B=torch.ones(1, dtype=torch.float64),
        length_B=torch.tensor([3]),
    )
    loss = built(GspoRl(clip_low=0.1, clip_high=0.1)).loss(tokens, RolloutCounts(3, 1)).loss
    (gradient_T,) = torch.autograd.grad(loss, log_prob_T)
    want = -((0.5 * 1.6 * 0.9) ** (1 / 3)) / 3
    np.testing.assert_allclose(gradient_T.numpy(), [want] * 3, rtol=1e-12)


def test_grpo_counts_a_response_of_one_token_as_much_as_a_long_one() -> None:
    short, long = slopes(built(GrpoRl(clip=0.2)), [[1.0], [1.0] * 20], [1.0, 1.0])
    assert sum(short) == pytest.approx(sum(long))
    short, long = slopes(built(PpoRl(clip=0.2, dual_clip=None)), [[1.0], [1.0] * 20], [1.0, 1.0])
    assert 20 * sum(short) == pytest.approx(sum(long))


def test_dr_grpo_weighs_a_token_the_same_in_short_and_long_responses() -> None:
    """And in any batch, while GRPO's weight falls with the response's own length."""
    estimator = built(DrGrpoRl(clip=0.2), 32)
    short, long = slopes(estimator, [[1.0] * 2, [1.0] * 20], [1.0, 1.0])
    assert short[0] == long[0] == pytest.approx(1 / (2 * 32))
    assert slopes(estimator, [[1.0] * 2, [1.0] * 30], [1.0, 1.0])[0] == short
    short, long = slopes(built(GrpoRl(clip=0.2)), [[1.0] * 2, [1.0] * 20], [1.0, 1.0])
    assert short[0] == pytest.approx(10 * long[0])


def test_ppo_second_limit_cuts_off_tokens_that_rose_in_a_bad_response() -> None:
    ratios = [[2.9, 3.1]]
    got = slopes(built(PpoRl(clip=0.2, dual_clip=3.0)), ratios, [-1.0])[0]
    assert got == [pytest.approx(-2.9 / 2), 0.0]
    assert slopes(built(PpoRl(clip=0.2, dual_clip=None)), ratios, [-1.0])[0] == [
        pytest.approx(-2.9 / 2),
        pytest.approx(-3.1 / 2),
    ]


def test_rloo_sums_over_tokens_and_divides_by_responses() -> None:
    short, long = slopes(built(RlooRl(ratio_cap=5.0)), [[1.0], [1.0] * 20], [1.0, 1.0])
    assert short == [0.5]
    assert long == [0.5] * 20


def test_rloo_weighs_a_response_by_its_whole_ratio_up_to_the_cap() -> None:
    inside, capped = slopes(built(RlooRl(ratio_cap=2.0)), [[1.1, 1.2], [1.8, 1.9]], [1.0, 1.0])
    assert inside == pytest.approx([1.1 * 1.2 / 2] * 2)
    assert capped == pytest.approx([2.0 / 2] * 2)


def test_rloo_is_exact_in_later_minibatches_where_other_weights_are_not() -> None:
    """Enumerated responses of pi_old; the truth is the gradient of the mean reward under pi."""
    policy = EnumerablePolicy(vocabulary=3, length=4)
    old, w = policy.start(0)
    w = [t.detach() for t in w]
    generator = torch.Generator().manual_seed(5)
    theta = old + 0.3 * torch.randn(old.shape, generator=generator, dtype=old.dtype)
    theta.requires_grad_()
    ids_NL = policy.sequences()
    reward_N = torch.rand(len(ids_NL), generator=generator, dtype=torch.float64)
    old_NL = policy.token_log_probs(old, w, ids_NL)
    log_prob_NL = policy.token_log_probs(theta, w, ids_NL)
    (want,) = torch.autograd.grad((log_prob_NL.sum(1).exp() * reward_N).sum(), theta)

    def error(estimator: RlEstimator, denominator_NL: torch.Tensor) -> float:
        log_prob_T = policy.token_log_probs(theta, w, ids_NL).reshape(-1)
        tokens = RolloutTokens(
            log_prob_T=log_prob_T,
            old_log_prob_T=denominator_NL.reshape(-1),
            behaviour_log_prob_T=old_NL.reshape(-1),
            mismatch_T=torch.ones_like(log_prob_T),
            row_T=torch.arange(len(ids_NL)).repeat_interleave(policy.length),
            # Each response counts by its probability under pi_old.
            advantage_B=old_NL.sum(1).exp() * reward_N,
            length_B=torch.full((len(ids_NL),), policy.length),
        )
        loss = estimator.loss(tokens, RolloutCounts(tokens=1, samples=1)).loss
        (got,) = torch.autograd.grad(-loss, theta)
        return float((got - want).norm() / want.norm())

    assert error(built(RlooRl(ratio_cap=NO_CAP)), old_NL) < 1e-12
    assert error(built(CispoRl(clip_low=None, clip_high=NO_CAP)), old_NL) > 0.05
    assert error(built(RlooRl(ratio_cap=NO_CAP)), log_prob_NL.detach()) > 0.05
