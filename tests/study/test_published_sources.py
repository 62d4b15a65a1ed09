"""Said of sources, of a learned mix, of a real model and of wrong rewards: it is what was found."""

import math

from coop_rl.report.stored_run import Axis
from coop_rl.study.archive import read_archive
from coop_rl.study.runs import StudyRun
from docs import study_findings
from tests.study.told import STUDIES, Told, difference, interval, require_told, words


def test_the_readme_has_the_figures_that_were_found() -> None:
    text = words(STUDIES.parents[1] / "README.md")
    found, mix = (
        study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
        for name in ("mixed-sources", "learned-mix-good")
    )
    assert difference(mix, "learned-from-.5", "tuned", "avg@8", "steps") in text
    told: list[tuple[str, str, Axis]] = [
        ("fixed", "pass@1", "steps"),
        ("rl", "avg@8", "steps"),
        ("rl", "avg@8", "device_seconds"),
    ]
    for reference, figure, axis in told:
        assert difference(found, "learned", reference, figure, axis) in text, reference
    (rl,) = [arm for arm in found.arms if arm.arm == "rl"]
    assert f"RL alone at {rl.figures['pass@1'].value:.3f}" in text


def test_readme_and_log_have_the_figures_of_a_learned_mix_on_harmful_demonstrations() -> None:
    readme, log = words(STUDIES.parents[1] / "README.md"), words(STUDIES / "README.md")
    decision = words(STUDIES.parent / "adr/0015-sources-are-weighed-without-w.md")
    name = "learned-mix-harmful"
    grid, found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")
    told: list[Told] = [
        ("learned-from-.5", "tuned", "steps", (readme, log, decision)),
        ("learned-from-.5", "tuned", "device_seconds", (log,)),
        ("learned-from-.9", "tuned", "steps", (log,)),
        ("learned-from-.1", "fixed-.1", "steps", (log,)),
        ("learned-from-.1", "tuned", "steps", (log,)),
        ("learned-from-.1", "tuned", "device_seconds", (log,)),
    ]
    require_told(found, told)
    at_end = {arm.arm: f"{arm.figures['avg@8'].value:.3f}" for arm in found.arms}
    untrained = f"{found.before['avg@8']:.3f}"
    assert f"avg@8 {at_end['fixed-.5']} after {untrained}; learned from .5" in readme
    assert f"from .5 its avg@8 is {at_end['learned-from-.5']}," in log
    runs = read_archive(STUDIES / name, grid)[1]
    late = {arm: [_first_above(run, 0.9) for run in runs if run.arm == arm] for arm in at_end}
    first, last = min(late["learned-from-.1"]), max(late["learned-from-.1"])
    assert set(late["learned-from-.5"]) == {11}
    assert "above .9 at step 11 from .5" in log
    assert f"from .1 only at steps {first} to {last} of the 80" in log


def _first_above(run: StudyRun, mix: float) -> float:
    reached = (row["step"] for row in run.steps if (row.get("guidance/mix") or 0.0) > mix)
    return next(reached, math.inf)


def test_the_log_has_the_trials_on_a_real_model() -> None:
    log, name = words(STUDIES / "README.md"), "smollm2-sources"
    found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
    of_sft = [trial.reward for trial in found.trials if trial.arm == "cold_start"]
    assert of_sft[:2] == [None, None]
    threshold, *epochs, last = (f"{reward:.3f}" for reward in of_sft[2:] if reward is not None)
    assert "is {} after one epoch, {} after two, {} after three".format(*epochs) in log
    assert f"the most, had the highest reward: {last}, so three stay" in log
    two, three = (trial for trial in found.trials if trial.arm == "learned-after-sft")
    assert f"after two epochs their reward is {two.reward:.3f}." in log
    assert f"learned sources have {three.reward:.3f}, and take them" in log
    assert three.is_chosen
    step = {cost.arm: cost.device_seconds / cost.num_steps for cost in found.costs}
    assert f"takes {step['learned']:.0f} device-seconds, one of `rl` {step['rl']:.0f}, which" in log
    assert f"{threshold} where the threshold ends SFT after three steps" in log


def test_readme_and_log_have_the_figures_of_wrong_rewards() -> None:
    readme, log = words(STUDIES.parents[1] / "README.md"), words(STUDIES / "README.md")
    grid = study_findings.GRIDS / "robustness.yaml"
    found = study_findings.read(STUDIES / "robustness", grid)[1]
    for share in ("", "-flip-.1", "-flip-.2", "-flip-.3"):
        told = difference(found, f"bridge{share}", f"rl{share}", "avg@8", "steps")
        assert told in log, share
        assert share not in ("-flip-.1", "-flip-.2") or told in readme, share
        told = difference(found, f"bridge{share}", f"rl{share}", "avg@8", "device_seconds")
        assert share not in ("-flip-.1", "-flip-.2") or told in log, share
    nll = [interval(d.differences["eval/demonstrations/nll"], 4) for d in found.diagnostics]
    assert len(nll) == 4
    assert ", ".join(nll) in log
    assert interval(found.diagnostics[-1].differences["forgetting/nll_rise"], 4) in log
