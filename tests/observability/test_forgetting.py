"""Dips of the reward and lost fit, on curves whose answer is known."""

import pytest

from coop_rl.metric_names import describe
from coop_rl.observability.forgetting import WINDOW_STEPS, Dip, Forgetting, describe_forgetting


def find_dip(rewards: list[float]) -> Dip | None:
    forgetting = Forgetting()
    for step, reward in enumerate(rewards):
        forgetting.add({"step": step, "reward/mean": reward})
    return forgetting.dip()


def test_a_dip_is_found_with_its_depth_and_the_step_it_ends() -> None:
    rewards = [0.5] * 10 + [0.2] * 10 + [0.4] * 5 + [0.6] * 10
    dip = find_dip(rewards)
    assert dip is not None
    assert dip.depth == pytest.approx(0.3)
    assert (dip.peak_step, dip.low_step) == (5, 15)
    # Windows of steps 23..27 and later hold 0.6 often enough: (2 * 0.4 + 3 * 0.6) / 5 = 0.52.
    assert dip.recovered_step == 28


def test_a_dip_at_the_end_has_not_recovered() -> None:
    dip = find_dip([0.5] * 10 + [0.2] * 10)
    assert dip is not None
    assert dip.recovered_step is None


def test_a_rising_curve_has_none_and_a_short_one_no_answer() -> None:
    dip = find_dip([i / 100 for i in range(50)])
    assert dip is not None
    assert dip.depth == 0.0
    assert find_dip([0.5] * WINDOW_STEPS) is None


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
    return [forgetting.add(row) for row in rows]


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
        resumed.add(row)
    assert feed(resumed, ROWS[cut:]) == expected


def test_without_kept_demonstrations_there_is_nothing_to_say() -> None:
    forgetting = Forgetting()
    assert forgetting.add({"step": 0, "eval/sums/pass@1": 0.5}) == {}
    assert forgetting.add({"step": 0, "loss/sft": 1.0}) == {}
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
    assert dip == ("reward dipped by 0.100 from step 5 to 10, not back yet (means of 5 steps)")
    level = Forgetting()
    feed(level, [{"step": step, "reward/mean": 0.5} for step in range(10)])
    assert describe_forgetting(level) == ["reward never dipped (means of 5 steps)"]
