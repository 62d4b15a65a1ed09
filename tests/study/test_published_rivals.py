"""Said of the rivals, at equal steps and at equal device-seconds: it is what was found."""

from collections import defaultdict

from coop_rl.report.stored_run import Axis
from coop_rl.study.findings import Findings
from docs import study_findings
from tests.study.told import STUDIES, Told, difference, interval, readings, require_told, words


def test_readme_and_log_have_the_figures_of_the_rivals() -> None:
    readme, log = words(STUDIES.parents[1] / "README.md"), words(STUDIES / "README.md")
    rivals = study_findings.read(STUDIES / "rivals", study_findings.GRIDS / "rivals.yaml")[1]
    for reference in ("rl", "cold_start", "sum"):
        told = difference(rivals, "bridge", reference, "avg@8", "steps")
        assert told in readme, reference
        assert told in log, reference
    for reference in ("sum", "alternate"):
        told = difference(rivals, "bridge", reference, "avg@8", "device_seconds")
        assert told in readme, reference
        assert told in log, reference
    for reference in ("rl", "cold_start"):
        assert difference(rivals, "bridge", reference, "avg@8", "device_seconds") in log


def test_the_log_has_the_trials_where_most_groups_get_no_reward() -> None:
    log = words(STUDIES / "README.md")
    name = "rivals-sparse"
    grid, found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")
    rewards: dict[str, dict[float, float]] = defaultdict(dict)
    taken = {}
    for trial in found.trials:
        rate = grid.trials[trial.arm][trial.trial - 1].get("learner.lr", 2e-4)
        if trial.reward is not None:
            rewards[trial.arm][rate] = trial.reward
        if trial.is_chosen:
            taken[trial.arm] = rate
    rising = [arm for arm, rate in taken.items() if rate == 8e-4]
    assert len(rising) == 5
    for arm in rising:
        assert f"`{arm}` {rewards[arm][4e-4]:.3f} to {rewards[arm][8e-4]:.3f}" in log
        assert rewards[arm][1.6e-3] < rewards[arm][8e-4]
    falling = [arm for arm, rate in taken.items() if rate == 4e-4]
    assert all(rewards[arm][8e-4] < rewards[arm][4e-4] for arm in falling)
    assert "That of " + ", ".join(f"`{arm}`" for arm in falling[:-1]) in log
    assert f"`{falling[-1]}` falls there" in log
    assert (len(rising) + len(falling), len(taken)) == (11, 14)
    assert f"{max(rewards['self_distil'].values()):.3f} at most" in log


def test_readme_and_log_have_the_figures_where_most_groups_get_no_reward() -> None:
    pages = (STUDIES / "README.md", STUDIES.parent / "adr/0018-w-without-a-shadow.md")
    log, decision = map(words, pages)
    readme, results = map(words, (STUDIES.parents[1] / "README.md", STUDIES.parent / "results.md"))
    grid = study_findings.GRIDS / "rivals-sparse.yaml"
    found = study_findings.read(STUDIES / "rivals-sparse", grid)[1]
    told: list[Told] = [
        ("bridge", "bridge-shadow", "steps", (log, decision, results)),
        ("bridge", "bridge-shadow", "device_seconds", (readme, log, decision, results)),
        ("bridge", "rl", "steps", (readme, log)),
        ("bridge", "cold_start", "steps", (readme, log)),
        ("bridge", "sum", "steps", (readme, log)),
        ("bridge", "rl", "device_seconds", (readme, log)),
    ]
    told += [("bridge", arm, "steps", (log,)) for arm in ("alternate", "srft", "chord", "sft")]
    even = ("cold_start", "alternate", "sum", "srft")
    told += [("bridge", arm, "device_seconds", (log,)) for arm in even]
    require_told(found, told)
    every = {arm.arm for arm in found.arms}
    not_higher = {"bridge", "bridge-shadow", "sum"}
    assert every - _higher(found, "avg@8", "steps") == not_higher
    assert every - _higher(found, "pass@1", "steps") == not_higher | {"sft", "alternate", "srft"}
    not_higher -= {"bridge-shadow"}
    unsure = {"sft", "cold_start", "alternate", "chord", "srft", "relift"}
    assert every - _higher(found, "avg@8", "device_seconds") == not_higher | unsure
    best = max(found.arms, key=lambda arm: arm.figures["avg@8"].value)
    assert f"highest avg@8 of the {len(every)} arms, {best.figures['avg@8'].value:.3f}" in log
    assert best.arm == "bridge"
    in_pass = {arm.arm: f"{arm.figures['pass@1'].value:.3f}" for arm in found.arms}
    assert f"In pass@1 it has {in_pass['bridge']}, `sft` {in_pass['sft']};" in log
    cost = {arm.arm: round(arm.device_seconds) for arm in found.costs}
    assert f"`sft` ends ({cost['sft']} of them, `bridge` {cost['bridge']})" in log
    assert round(cost["bridge"] / cost["sft"]) == 16
    gain = found.gains[0]
    assert f"{interval(gain.gain, 4)} where the separate RL run is {gain.reward.value:.3f} b" in log


def _higher(found: Findings, figure: str, axis: Axis) -> set[str]:
    """The references that bridge is higher than, after Holm."""
    own = [c for c in found.contrasts if (c.figure, c.axis) == (figure, axis)]
    return {c.reference for c in own if c.reads.startswith("higher")}


def test_readme_and_log_have_the_figures_with_equal_seconds() -> None:
    readme, log = words(STUDIES.parents[1] / "README.md"), words(STUDIES / "README.md")
    decision = words(STUDIES.parent / "adr/0019-cooperation-after-sft.md")
    name = "equal-seconds"
    found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
    best: dict[str, float] = defaultdict(float)
    for trial in found.trials:
        best[trial.arm] = max(best[trial.arm], trial.reward or 0.0)
    assert f"{best['cold_start']:.3f} of `cold_start` with 240 steps of SFT" in log
    assert f"{best['bridge-after-sft']:.3f} of cooperation after as many" in log
    assert f"at most {best['bridge-more']:.3f} of `bridge` with eight times" in log
    sft, after = ("sft-2e-4", "sft-4e-4"), "bridge-after-sft"
    lower = [("bridge", arm) for arm in (*sft, "cold_start")]
    unsure = [(after, arm) for arm in (*sft, "cold_start")]
    told: list[Told] = [(*pair, "device_seconds", (readme, log)) for pair in lower]
    told += [(*pair, "device_seconds", (log, decision)) for pair in unsure]
    told += [("bridge-more", "bridge", axis, (log,)) for axis in ("steps", "device_seconds")]
    told += [(after, "bridge", "device_seconds", (readme, log, decision))]
    require_told(found, told)
    reads = readings(found)
    assert [reads[pair] for pair in lower] == ["lower"] * 3
    assert [reads[pair] for pair in unsure] == ["no difference shown"] * 3
    assert reads[after, "bridge"] == "higher"
    ends = {arm.arm: f"{arm.figures['avg@8'].value:.3f}" for arm in found.arms}
    for text in (readme, log):
        assert " and ".join(ends[arm] for arm in sft) in text
    assert f"neither RL, {ends['cold_start']}, nor cooperation, {ends[after]}," in log
    step = {cost.arm: cost.device_seconds / cost.num_steps for cost in found.costs}
    of_sft = sum(step[arm] for arm in sft) / 2
    assert f"`bridge` takes {step['bridge']:.1f} device-seconds, one of SFT {of_sft:.1f}" in log
    ratio = f"{step['bridge'] / of_sft:.0f}"
    assert f"SFT has {ratio} updates in the time of one" in log
    assert f"takes the time of {ratio} steps of SFT" in decision
    assert f"many steps of SFT ({ratio} on" in words(STUDIES.parent / "how-it-works.md")


def test_readme_and_log_have_the_figures_where_demonstrations_are_few() -> None:
    readme, log = words(STUDIES.parents[1] / "README.md"), words(STUDIES / "README.md")
    decision = words(STUDIES.parent / "adr/0019-cooperation-after-sft.md")
    name = "few-demonstrations"
    found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
    after = "bridge-after-sft"
    told: list[Told] = [
        ("bridge", "rl", "steps", (log,)),
        ("bridge", "sum", "steps", (log,)),
        ("bridge", "sft", "steps", (readme, log)),
        (after, "cold_start", "steps", (log,)),
        ("bridge", "rl", "device_seconds", (readme, log)),
        ("bridge", "sum", "device_seconds", (readme, log, decision)),
        ("bridge", "sft-long", "device_seconds", (readme, log, decision)),
        ("bridge", "cold_start", "device_seconds", (readme, log, decision)),
        (after, "cold_start", "device_seconds", (readme, log, decision)),
        (after, "bridge", "device_seconds", (log, decision)),
    ]
    require_told(found, told)
    reads = readings(found)
    higher = {("bridge", arm) for arm in ("rl", "sum", "sft-long")} | {(after, "cold_start")}
    assert {pair for pair, text in reads.items() if text == "higher"} == higher
    assert reads["bridge", "cold_start"] == reads[after, "bridge"] == "no difference shown"
    ends = {arm.arm: f"{arm.figures['avg@8'].value:.3f}" for arm in found.arms}
    rest = ", ".join(f"`{arm}` {ends[arm]}" for arm in ("rl", "sum", "cold_start"))
    assert f"`bridge` has {ends['bridge']}, {rest};" in log
    assert f"ends at {ends[after]}," in log
    assert f"{ends['sft']} after 40 steps, {ends['sft-long']} after 600" in log
    cost = {arm.arm: round(arm.device_seconds) for arm in found.costs}
    assert f"take {cost['sft-long']} device-seconds of `bridge`'s {cost['bridge']}," in log
    (of_sum,) = (t.reward for t in found.trials if t.arm == "sum" and t.is_chosen)
    last = found.trials[max(i for i, t in enumerate(found.trials) if t.arm == "sum")]
    assert f"at 1.6e-3, run then, has {last.reward:.3f} after its {of_sum:.3f}" in log
    in_pass = difference(found, after, "cold_start", "pass@1", "device_seconds")
    assert f"in pass@1 {in_pass} at equal device-seconds" in log
    gain = found.gains[0]
    assert f"{interval(gain.gain, 4)} where the separate RL run is {gain.reward.value:.3f}" in log
