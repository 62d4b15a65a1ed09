"""The value of the cooperative gain against enumeration, and its guard."""

import json
from dataclasses import replace

import numpy as np
import pytest

from coop_rl.algorithm.gain import (
    GainSettings,
    GainWindow,
    effective_sample_size,
    estimate_gain,
    gain_per_prompt,
    standard_error,
)
from coop_rl.types import (
    CooperativeGain,
    PolicyVersion,
    PooledGain,
    Prompt,
    Resolution,
    Reward,
    Rollout,
    SampleSums,
    ScoredGroup,
)

VERSION = PolicyVersion(0, 0)


def sums(log_ratio_N, kl_N=(), resolution=Resolution()) -> SampleSums:  # noqa: B008 - frozen
    return SampleSums(tuple(log_ratio_N), tuple(kl_N), resolution=resolution)


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


def value_of(gain: CooperativeGain) -> float:
    assert gain.value is not None
    return gain.value


def pooled_of(window: GainWindow) -> PooledGain:
    pooled = window.pooled()
    assert pooled is not None
    return pooled


def bandit(rng, probability: float, num_prompts: int = 32) -> np.ndarray:
    """Rewards of groups of 8 one-token responses."""
    return (rng.random((num_prompts, 8)) < probability).astype(float)


def test_fresh_gain_reweighs_joints_rollouts_that_a_lag_made_old() -> None:
    """Sampled at p = 0.3, both branches at p = 0.5 by now: the true gain is 0."""
    rng, values = np.random.default_rng(5), []
    for _ in range(300):
        old, own = bandit(rng, 0.3), bandit(rng, 0.5)
        ratio = np.where(old > 0, np.log(0.5 / 0.3), np.log(0.5 / 0.7)).ravel()
        gain = estimate_gain(
            groups_of(old), groups_of(own), 0, sums(ratio), sums(ratio), GainSettings()
        )
        values.append(value_of(gain))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert error < 0.01  # so that 0.2, the gap of the rewards as they are, would not pass


def test_of_several_minibatches_the_first_has_its_share_of_the_dropped_groups() -> None:
    """The loop hands in a part of the step's drops, which need be no whole number."""
    rng = np.random.default_rng(6)
    reward, shadow = bandit(rng, 0.5, 4), rng.normal(size=32) * 0.1
    values = [
        estimate_gain(
            groups_of(reward), (), drops, sums(np.zeros(32)), sums(shadow), GainSettings()
        )
        for drops in (0.0, 1.5, 4.0)
    ]
    means = [value_of(gain) for gain in values]
    assert means[1] == pytest.approx(means[0] * 4 / 5.5)
    assert means[2] == pytest.approx(means[0] / 2)
    errors = [gain.stderr or 0.0 for gain in values]
    assert errors[0] > errors[1] > errors[2] > 0.0


def test_a_shadow_may_be_given_by_its_difference_from_joint() -> None:
    rng = np.random.default_rng(7)
    reward, joint = bandit(rng, 0.5, 4), rng.normal(size=32) * 0.01
    step, step_kl = rng.normal(size=32) * 0.002, rng.normal(size=32) * 0.01
    kl, far = rng.normal(size=32) * 0.1, Resolution(100.0, 0.9)
    plain, amplified = (
        estimate_gain(
            groups_of(reward),
            (),
            0,
            sums(joint, kl),
            shadow,
            GainSettings(kl_weight=0.5),
        )
        for shadow in (
            sums(joint + step, kl + step_kl),
            SampleSums(tuple(step), tuple(step_kl), is_relative=True, resolution=far),
        )
    )
    assert amplified.value == pytest.approx(plain.value, rel=1e-9)
    assert amplified.kl_gap == pytest.approx(plain.kl_gap, rel=1e-9)
    assert amplified.ess == pytest.approx(plain.ess)
    assert amplified.resolution.amplification == 100.0


def test_what_rounding_hides_is_no_number_and_moves_nothing() -> None:
    noise = np.random.default_rng(8).normal(size=32) * 0.01
    gain = estimate_gain(
        groups_of(bandit(np.random.default_rng(9), 0.5, 4)),
        (),
        0,
        sums(np.zeros(32)),
        sums(noise, (), Resolution(1.0, 0.01)),
        GainSettings(is_guarded=False),
    )
    assert gain.value is None
    assert not gain.is_resolved


def test_the_pooled_interval_covers_the_truth() -> None:
    """95 % intervals over windows of 20 steps, whose true gains differ: 93 to 97 of 100."""
    rng, num_windows, num_steps = np.random.default_rng(3), 1500, 20
    template = estimate_gain(
        groups_of(bandit(rng, 0.5)), (), 0, sums(np.zeros(256)), sums(np.zeros(256)), GainSettings()
    )
    hits = 0
    for _ in range(num_windows):
        window, true = GainWindow(num_steps), []
        for age in range(num_steps):
            p, p_hat = 0.5 + 0.01 * rng.normal(), 0.5 - 0.002 * age
            reward = bandit(rng, 0.5)
            joint, shadow = (
                np.where(reward > 0, np.log(q / 0.5), np.log((1 - q) / 0.5)) for q in (p, p_hat)
            )
            value_P = gain_per_prompt(reward, joint, shadow)
            value, stderr = float(value_P.mean()), standard_error(value_P)
            window.add(replace(template, value=value, stderr=stderr, shadow_age=age))
            true.append(p - p_hat)
        pooled = pooled_of(window)
        hits += int(abs(pooled.value - np.mean(true)) < 1.96 * pooled.stderr)
        assert pooled.num_steps == num_steps
        assert pooled.shadow_age == np.mean(range(num_steps))
    assert 0.93 <= hits / num_windows <= 0.97


def test_a_window_keeps_the_last_measurements_through_a_stop() -> None:
    gain = estimate_gain(
        groups_of(bandit(np.random.default_rng(0), 0.5)),
        (),
        0,
        sums(np.zeros(256)),
        sums(np.random.default_rng(1).normal(size=256) * 0.1),
        GainSettings(),
        shadow_age=3,
    )
    window = GainWindow(3)
    assert window.pooled() is None
    for step in range(5):
        window.add(replace(gain, value=float(step)))
        window.add(None)
        window.add(replace(gain, value=None, stderr=None))
    assert pooled_of(window).value == pytest.approx(3.0)
    again = GainWindow(3)
    again.load_state(json.loads(json.dumps(window.state())))
    assert again.pooled() == window.pooled()
