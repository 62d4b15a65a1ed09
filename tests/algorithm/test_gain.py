"""The value of the cooperative gain against enumeration, and its guard."""

import numpy as np
import pytest

from coop_rl.algorithm.gain import (
    GainSettings,
    effective_sample_size,
    estimate_gain,
    gain_per_prompt,
)
from coop_rl.types import (
    PolicyVersion,
    Prompt,
    Resolution,
    Reward,
    Rollout,
    SampleSums,
    ScoredGroup,
)

VERSION = PolicyVersion(0, 0)


def sums(log_ratio_N, kl_N=(), resolution=Resolution()) -> SampleSums:  # noqa: B008 - frozen
    return SampleSums(tuple(log_ratio_N), tuple(kl_N), resolution)


def groups_of(reward_PG) -> list[ScoredGroup]:
    rollout = Rollout((1,), (0.0,), "", False, VERSION)
    return [
        ScoredGroup(
            Prompt(str(p), "", (1,), ""),
            (rollout,) * len(row),
            tuple(Reward(float(r), r > 0) for r in row),
        )
        for p, row in enumerate(reward_PG)
    ]


def test_gain_is_unbiased_over_all_samples_of_a_bandit() -> None:
    """The mean over every pair of samples, weighted by its probability, is the exact gap."""
    reward = np.array([0.0, 1.0, 0.4])
    behaviour, joint, shadow = (
        np.array(p) for p in ([0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.6, 0.1, 0.3])
    )
    total = 0.0
    for a in range(3):
        for b in range(3):
            pair = [a, b]
            total += (
                behaviour[a]
                * behaviour[b]
                * float(
                    gain_per_prompt(
                        reward[pair][None],
                        np.log(joint / behaviour)[pair][None],
                        np.log(shadow / behaviour)[pair][None],
                    )[0]
                )
            )
    assert total == pytest.approx(float((joint - shadow) @ reward), abs=1e-12)


def test_gain_is_exactly_zero_at_equal_branches() -> None:
    log_ratio = np.random.default_rng(0).normal(size=(4, 8)) * 0.1
    reward = np.random.default_rng(1).integers(0, 2, (4, 8)).astype(float)
    gain = estimate_gain(
        groups_of(reward),
        (),
        0,
        sums(log_ratio.ravel()),
        sums(log_ratio.ravel()),
        GainSettings(0.5, True, 5.0),
    )
    assert gain.value == 0.0
    assert gain.stderr == 0.0
    assert gain.shadow_kl == 0.0


def test_ess_is_one_for_equal_weights_and_one_over_n_for_a_single_weight() -> None:
    assert effective_sample_size(np.zeros(10)) == pytest.approx(1.0)
    assert effective_sample_size(np.array([1000.0] + [0.0] * 9)) == pytest.approx(0.1)


@pytest.mark.parametrize(("is_guarded", "is_usable"), [(True, False), (False, True)])
def test_low_ess_shows_no_number_and_the_guard_stops_w(is_guarded, is_usable) -> None:
    reward = np.tile([0.0, 1.0], (4, 2))
    shadow = np.zeros(16)
    shadow[0] = 8.0
    gain = estimate_gain(
        groups_of(reward),
        (),
        0,
        sums(np.zeros(16)),
        sums(shadow),
        GainSettings(0.5, is_guarded, 5.0),
    )
    assert gain.value is None
    assert gain.stderr is None
    assert gain.ess < 0.1
    assert gain.ess_joint == 1.0
    assert gain.capped_share == 1 / 16
    assert gain.is_usable is is_usable


def test_kl_gap_is_weighed_like_the_reward_gap_and_charged_with_beta() -> None:
    rng = np.random.default_rng(3)
    reward = rng.integers(0, 2, (4, 8)).astype(float)
    joint, shadow, joint_kl, shadow_kl = (rng.normal(size=32) * 0.1 for _ in range(4))
    gain = estimate_gain(
        groups_of(reward),
        (),
        0,
        sums(joint, joint_kl),
        sums(shadow, shadow_kl),
        GainSettings(kl_weight=0.5),
    )
    want = float((np.exp(joint) * joint_kl - np.exp(shadow) * shadow_kl).mean())
    assert gain.kl_gap == pytest.approx(want)
    assert gain.reward_gap is not None
    assert gain.value == pytest.approx(gain.reward_gap - 0.5 * want)


def test_fresh_gain_is_the_difference_of_the_branches_means_over_prompts() -> None:
    joint_PG, shadow_PG = np.array([[1.0, 1], [0, 1], [1, 0]]), np.array([[0.0, 1], [0, 1], [0, 0]])
    far = np.full(6, 5.0)
    gain = estimate_gain(
        groups_of(joint_PG),
        groups_of(shadow_PG),
        0,
        sums(np.zeros(6)),
        sums(far),
        GainSettings(always_fresh=True),
    )
    assert gain.estimator == "fresh"
    assert gain.value == pytest.approx(1 / 3)
    assert gain.stderr == pytest.approx(np.std([0.5, 0.0, 0.5], ddof=1) / np.sqrt(3))
    assert gain.is_usable


def test_groups_sampled_in_vain_count_as_zero() -> None:
    rng = np.random.default_rng(4)
    reward, shadow = rng.integers(0, 2, (4, 8)).astype(float), rng.normal(size=32) * 0.1
    kept, diluted = (
        estimate_gain(
            groups_of(reward),
            (),
            dropped,
            sums(np.zeros(32)),
            sums(shadow),
            GainSettings(),
        )
        for dropped in (0, 4)
    )
    assert kept.value is not None
    assert diluted.value == pytest.approx(kept.value / 2)
    assert diluted.reward_gap == pytest.approx(diluted.value)
    assert diluted.stderr is not None
    assert kept.stderr is not None
    assert diluted.stderr < kept.stderr
