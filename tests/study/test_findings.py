"""What a study concludes from finished runs, against the same computed by hand."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from coop_rl.evaluation.estimators import seed_interval
from coop_rl.evaluation.seeds import bootstrap_interval, difference_p, equivalence_p
from coop_rl.report.stored_run import Axis
from coop_rl.study.contrasts import ContrastFinding
from coop_rl.study.findings import Findings, find
from coop_rl.study.planned import Study, read_study
from coop_rl.study.runs import Progress
from coop_rl.study.tables import markdown, tables_of
from tests.study.stored import finish, write_grid

BEFORE = [0, 0, 1, 0]
BRIDGE = {0: [2, 2, 1, 0], 1: [2, 2, 2, 1], 2: [1, 2, 2, 2]}
RL = {0: [2, 1, 1, 0], 1: [1, 0, 2, 1], 2: [1, 1, 2, 1]}


def written(study: Study, cost: float = 1.0) -> Study:
    for run in study.runs({}):
        if run.arm == "rl":
            finish(run, {0: BEFORE, 20: RL[run.seed]}, reward=0.4 + 0.05 * run.seed, cost=cost)
        else:
            right = {0: BEFORE, 10: BEFORE, 20: BRIDGE[run.seed]}
            finish(run, right, reward=0.5, gain=0.02 + 0.01 * run.seed)
    return study


def found_of(study: Study) -> Findings:
    return find(study.grid, study.primary_set, Progress().finished(study.runs({})))


def contrast(found: Findings, figure: str, axis: Axis, index: int = 0) -> ContrastFinding:
    return [c for c in found.contrasts if (c.figure, c.axis) == (figure, axis)][index]


def test_a_contrast_is_paired_by_seed(tmp_path: Path) -> None:
    found = found_of(written(read_study(write_grid(tmp_path), tmp_path / "runs")))
    c = contrast(found, "avg@2", "steps")
    items_SP = np.array([np.subtract(BRIDGE[s], RL[s]) / 2 for s in range(3)])
    differences = list(items_SP.mean(axis=1))
    expected = seed_interval(differences)
    assert c.difference is not None
    assert c.num_seeds == 3
    assert c.difference.value == pytest.approx(expected.value)
    assert (c.difference.low, c.difference.high) == pytest.approx((expected.low, expected.high))
    assert c.bootstrap == pytest.approx(bootstrap_interval(items_SP))
    assert c.p == pytest.approx(difference_p(differences))
    assert (c.arm_value, c.reference_value) == pytest.approx(
        (np.mean(list(BRIDGE.values())) / 2, np.mean(list(RL.values())) / 2)
    )
    reward = contrast(found, "training reward", "steps")
    assert reward.difference is not None
    assert reward.difference.value == pytest.approx(0.05)
    assert reward.bootstrap is None
    assert found.before == {"avg@2": 0.125, "pass@1": 0.0}


def test_p_values_are_adjusted_for_all_declared_contrasts(tmp_path: Path) -> None:
    arms = {"bridge": {}, "rl": {"method.kind": "rl"}, "sum": {"method.kind": "sum"}}
    contrasts = [
        {"arm": "bridge", "reference": "rl", "margin": 0.3},
        {"arm": "bridge", "reference": "sum"},
    ]
    path = write_grid(tmp_path, arms=arms, contrasts=contrasts)
    study = read_study(path, tmp_path / "runs")
    for run in study.runs({}):
        if run.arm != "sum":  # not trained yet, but declared
            finish(run, {0: BEFORE, 20: (RL if run.arm == "rl" else BRIDGE)[run.seed]})
    found = found_of(study)
    c, other = (contrast(found, "avg@2", "steps", i) for i in (0, 1))
    assert c.p is not None
    assert c.p_holm == pytest.approx(2 * c.p)
    differences = [fmean(np.subtract(BRIDGE[s], RL[s]) / 2) for s in range(3)]
    assert c.equivalence_p == c.equivalence_p_holm
    assert c.equivalence_p == pytest.approx(equivalence_p(differences, 0.3))
    assert (other.num_seeds, other.p, other.equivalence_p, other.reads) == (
        0, None, None, "too few seeds",
    )  # fmt: skip
    assert contrast(found, "pass@1", "steps").equivalence_p is None  # a margin is of the primary
    assert "n 0: no pair of finished runs" in markdown(study.grid, found)


@pytest.mark.parametrize(
    ("cost", "share", "reference_share"),
    [
        (1.0, 1.0, 1.0),  # both end at 20
        (0.75, 0.5, 1.0),  # rl ends at 15: halfway between bridge's evaluations after 10 and 20
        (0.4, None, None),  # rl ends at 8: bridge's neighbours are those before training
        (1.04, 1.0, 1.0),  # within the tolerance
        (1.3, None, None),  # rl has none near 20 of 26
    ],
)
def test_figures_at_equal_device_seconds(
    tmp_path: Path, cost: float, share: float | None, reference_share: float | None
) -> None:
    found = found_of(written(read_study(write_grid(tmp_path), tmp_path / "runs"), cost=cost))
    c = contrast(found, "avg@2", "device_seconds")
    if share is None or reference_share is None:
        assert c.num_seeds == 0
        return
    late = np.mean(list(BRIDGE.values())) / 2
    assert c.arm_value == pytest.approx(share * late + (1 - share) * np.mean(BEFORE) / 2)
    assert c.reference_value == pytest.approx(np.mean(list(RL.values())) / 2)


def test_the_logged_gain_is_held_against_a_separate_run(tmp_path: Path) -> None:
    found = found_of(written(read_study(write_grid(tmp_path), tmp_path / "runs")))
    own, everything = found.gains
    assert (own.arm, own.reference, own.num_seeds) == ("bridge", "rl", 3)
    assert own.gain.value == pytest.approx(0.03)
    assert own.reward.value == pytest.approx(fmean([0.1, 0.05, 0.0]))
    assert own.excess.value == pytest.approx(0.03 - 0.05)
    assert own.num_same_sign == 2
    assert everything.arm == "all"


def test_arms_are_shown_over_the_seeds_that_all_have(tmp_path: Path) -> None:
    study = read_study(write_grid(tmp_path, diagnostics=["grad/norm"]), tmp_path / "runs")
    for run in study.runs({})[:5]:  # rl lacks the last seed
        finish(run, {0: BEFORE, 20: BRIDGE[run.seed]})
    found = found_of(study)
    assert found.num_seeds == 2
    assert found.arms[0].figures["avg@2"].value == pytest.approx(fmean([5 / 8, 7 / 8]))
    assert [(c.arm, c.num_runs, c.num_steps, c.minutes) for c in found.costs] == [
        ("bridge", 3, 20, 3.0),
        ("rl", 2, 20, 3.0),
    ]
    titles = [table.title for table in tables_of(study.grid, found)]
    assert titles[:2] == ["In short: avg@2", "Arms"]
    assert {"Diagnostics", "Cost of a run", "Contrasts: avg@2"} <= set(titles)
    assert "| bridge | 1.0000; 1.0000 |" in markdown(study.grid, found)
    assert "arms differ in steps" not in markdown(study.grid, found)


def test_arms_of_unlike_length_are_shown_with_their_steps(tmp_path: Path) -> None:
    arms = {"bridge": {}, "rl": {"method.kind": "rl", "run.num_steps": 10}}
    study = read_study(write_grid(tmp_path, arms=arms), tmp_path / "runs")
    page = markdown(study.grid, found_of(written(study)))
    assert "- each at its own end: arms differ in steps, which are under Cost of a run" in page
    assert "| bridge | 3 | 20 |" in page
    assert "| rl | 3 | 10 |" in page


def test_what_meets_at_equal_device_seconds_alone_is_told_in_short(tmp_path: Path) -> None:
    """A short dear run against a long cheap one that was not evaluated at its few steps."""
    arms = {"bridge": {"run.num_steps": 10}, "rl": {"method.kind": "rl"}}
    study = read_study(write_grid(tmp_path, arms=arms), tmp_path / "runs")
    for run in study.runs({}):
        num_steps, cost = (20, 1.0) if run.arm == "rl" else (10, 2.0)
        right = (RL if run.arm == "rl" else BRIDGE)[run.seed]
        finish(run, {0: BEFORE, num_steps: right}, cost=cost)
    found = found_of(study)
    seeds = {c.axis: c.num_seeds for c in found.contrasts if c.figure == "avg@2"}
    assert (seeds["steps"], seeds["device_seconds"]) == (0, 3)
    table = tables_of(study.grid, found)[0]
    assert table.title == "In short: avg@2"
    ((name, num_seeds, *cells),) = table.rows
    assert (name, num_seeds, cells[:2]) == ("bridge − rl", "3", ["–", "–"])
    mean = fmean(fmean(np.subtract(BRIDGE[seed], RL[seed]) / 2) for seed in range(3))
    assert cells[2].startswith(f"{mean:+.3f} [")


def test_diagnostics_are_compared_by_seed_and_not_tested(tmp_path: Path) -> None:
    names = ["reward/mean", "gain/pooled", "forgetting/nll_rise"]
    study = read_study(write_grid(tmp_path, diagnostics=names), tmp_path / "runs")
    found = found_of(written(study))
    (own,) = found.diagnostics
    assert (own.arm, own.reference, [*own.differences]) == ("bridge", "rl", names[:2])
    assert own.differences["gain/pooled"].value == pytest.approx(fmean([0.01, 0.02, 0.03]))
    assert own.differences["reward/mean"].value == pytest.approx(fmean([0.1, 0.05, 0.0]))
    assert "| bridge − rl | +0.0500 [" in markdown(study.grid, found)
    assert "described, not tested" in markdown(study.grid, found)


def test_the_trial_with_the_highest_reward_is_taken(tmp_path: Path) -> None:
    trials = {"rl": [{"learner": {"lr": rate}} for rate in (1e-4, 2e-4, 4e-4)]}
    study = read_study(write_grid(tmp_path, trials=trials), tmp_path / "runs")
    runs = study.trial_runs()
    for run, reward in zip(runs, (0.3, 0.6, 0.6), strict=True):
        finish(run, {0: BEFORE, 20: BEFORE}, reward=reward)
    found = find(study.grid, study.primary_set, Progress().finished(runs))
    assert [t.is_chosen for t in found.trials] == [False, True, False]
    assert "| rl, trial 2 | learner.lr 0.0002 | 0.600 | taken |" in markdown(study.grid, found)
    found = find(study.grid, study.primary_set, Progress().finished(runs[:2]))
    assert not any(t.is_chosen for t in found.trials)  # one is still to run
