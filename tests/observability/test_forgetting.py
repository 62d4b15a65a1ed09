"""Dips of the reward and lost fit, on curves whose answer is known."""

import numpy as np
import pytest

from coop_rl.observability.forgetting import WINDOW, Forgetting, describe_forgetting, find_dip
from coop_rl.observability.metrics import describe


def test_a_dip_is_found_with_its_depth_and_the_step_it_ends() -> None:
    rewards = [0.5] * 10 + [0.2] * 10 + [0.4] * 5 + [0.6] * 10
    dip = find_dip(rewards)
    assert dip is not None
    assert dip.depth == pytest.approx(0.3)
    assert (dip.peak_step, dip.low_step) == (5, 15)
    # Windows of steps 23..27 and later hold 0.6 often enough: (2 * 0.4 + 3 * 0.6) / 5 = 0.52.
    assert dip.recovered_step == 28
    assert dip.is_clear


def test_a_dip_at_the_end_has_not_recovered() -> None:
    dip = find_dip([0.5] * 10 + [0.2] * 10)
    assert dip is not None
    assert dip.recovered_step is None


def test_a_rising_curve_has_none_and_a_short_one_no_answer() -> None:
    dip = find_dip([i / 100 for i in range(50)])
    assert dip is not None
    assert dip.depth == 0.0
    assert not dip.is_clear
    assert find_dip([0.5] * WINDOW) is None


def test_noise_around_a_level_is_called_a_dip_one_time_in_twenty() -> None:
    rng = np.random.default_rng(7)
    dips = [find_dip(list(rng.normal(0.5, 0.05, size=60))) for _ in range(400)]
    clear = np.mean([dip is not None and dip.is_clear for dip in dips])
    assert 0.01 < clear < 0.12


def test_a_real_dip_in_noise_is_clear() -> None:
    rng = np.random.default_rng(8)
    curve = np.concatenate([np.full(20, 0.6), np.full(15, 0.4), np.full(25, 0.7)])
    dips = [find_dip(list(curve + rng.normal(0, 0.03, size=60))) for _ in range(50)]
    assert all(dip is not None and dip.is_clear and dip.recovered_step for dip in dips)


def evaluated(step: int, nll: float, accuracy: float) -> dict[str, float | None]:
    return {
        "step": step,
        "eval/demonstrations/nll": nll,
        "eval/demonstrations/token_accuracy": accuracy,
    }


def rewarded() -> list[dict[str, float | None]]:
    return [{"step": step, "reward/mean": 0.5 - 0.1 * (step >= 5)} for step in range(10)]


ROWS: list[dict[str, float | None]] = [
    evaluated(0, 2.0, 0.50),
    *rewarded(),
    evaluated(10, 1.0, 0.70),
    evaluated(20, 1.25, 0.66),
]


def feed(forgetting: Forgetting, rows: list[dict[str, float | None]]) -> list[dict]:
    return [
        forgetting.evaluation(r) if "reward/mean" not in r else forgetting.step(r) for r in rows
    ]


def test_what_is_lost_is_measured_from_the_best_so_far() -> None:
    forgetting = Forgetting()
    first, *steps, middle, last = feed(forgetting, ROWS)
    assert first == {
        "forgetting/nll_rise": 0.0,
        "forgetting/nll_retained": None,
        "forgetting/token_accuracy_lost": 0.0,
    }
    assert middle["forgetting/nll_retained"] == 1.0
    assert last["forgetting/nll_rise"] == pytest.approx(0.25)
    assert last["forgetting/nll_retained"] == pytest.approx(0.75)
    assert last["forgetting/token_accuracy_lost"] == pytest.approx(0.04)
    below = [step.get("forgetting/reward_below_best") for step in steps]
    assert below[:4] == [None] * 4
    assert below[4:] == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1])
    retention, dip = forgetting.retention(), forgetting.dip()
    assert retention is not None
    assert (retention.lowest_step, retention.lowest) == (10, 1.0)
    assert dip is not None
    assert dip.depth == pytest.approx(0.1)
    assert all(describe(name) for row in (first, *steps, last) for name in row)


@pytest.mark.parametrize("cut", range(1, len(ROWS)))
def test_a_resumed_run_reports_the_same(cut: int) -> None:
    whole, resumed = Forgetting(), Forgetting()
    expected = feed(whole, ROWS)[cut:]
    for row in ROWS[:cut]:
        resumed.go_on(row)
    assert feed(resumed, ROWS[cut:]) == expected


def test_without_kept_demonstrations_there_is_nothing_to_say() -> None:
    forgetting = Forgetting()
    assert forgetting.evaluation({"step": 0, "eval/sums/pass@1": 0.5}) == {}
    assert forgetting.step({"step": 0, "loss/sft": 1.0}) == {}
    assert forgetting.retention() is None
    assert forgetting.dip() is None


def test_the_summary_says_what_was_lost() -> None:
    forgetting = Forgetting()
    assert describe_forgetting(forgetting) == []
    feed(forgetting, ROWS)
    retention, dip = describe_forgetting(forgetting)
    assert retention == (
        "demonstrations kept from training: NLL 2.0000 before, lowest 1.0000 after 10 steps, "
        "1.2500 now, 75% of the gain kept"
    )
    assert dip.startswith("reward dipped by 0.100 from step 5 to 10, not back yet")
