"""The value of the cooperative gain against enumeration, and its guard."""

import numpy as np
import pytest

from coop_rl.algorithm.gain import (
    GainSettings,
    effective_sample_size,
    estimate_gain,
    gain_per_prompt,
)
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, ScoredGroup, StepResult

VERSION = PolicyVersion(0, 0)


def step_result(branch, log_ratio_N) -> StepResult:
    return StepResult(
        branch, VERSION, 0.0, 0.0, 0.0, 0.0, tuple(log_ratio_N), 0.0, 0.0, 0.0, 0.0, True, 0.0
    )


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
    result = estimate_gain(
        groups_of(reward),
        step_result("joint", log_ratio.ravel()),
        step_result("rl_only", log_ratio.ravel()),
        GainSettings(0.5, True, 5.0),
    )
    assert result.value == 0.0
    assert result.stderr == 0.0
    assert result.shadow_kl == 0.0


def test_ess_is_one_for_equal_weights_and_one_over_n_for_a_single_weight() -> None:
    assert effective_sample_size(np.zeros(10)) == pytest.approx(1.0)
    assert effective_sample_size(np.array([1000.0] + [0.0] * 9)) == pytest.approx(0.1)


@pytest.mark.parametrize(("is_guarded", "is_usable"), [(True, False), (False, True)])
def test_low_ess_shows_no_number_and_the_guard_stops_w(is_guarded, is_usable) -> None:
    reward = np.tile([0.0, 1.0], (4, 2))
    shadow = np.zeros(16)
    shadow[0] = 8.0
    result = estimate_gain(
        groups_of(reward),
        step_result("joint", np.zeros(16)),
        step_result("rl_only", shadow),
        GainSettings(0.5, is_guarded, 5.0),
    )
    assert result.value is None
    assert result.stderr is None
    assert result.ess < 0.1
    assert result.ess_joint == 1.0
    assert result.capped_share == 1 / 16
    assert result.is_usable is is_usable
