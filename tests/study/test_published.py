"""The published studies: their pages are what their raw figures give."""

import math
import re
from collections import defaultdict
from pathlib import Path

from coop_rl.report.stored_run import Axis
from coop_rl.study.archive import read_archive, write_archive
from coop_rl.study.findings import Findings
from coop_rl.study.mean import Mean
from coop_rl.study.planned import read_study
from coop_rl.study.runs import Progress, StudyRun
from docs import study_findings
from tests.study.stored import finish, write_grid

STUDIES = Path(__file__).parents[2] / "docs/studies"
MOST_BYTES = 20e6
Told = tuple[str, str, Axis, tuple[str, ...]]
"""arm, reference, equal cost, texts that have their difference in avg@8."""
DIFFERENCE = re.compile(r"[+−]\d\.\d+ \[[+−]\d\.\d+, [+−]\d\.\d+\]")


def test_pages_are_those_of_the_raw_figures() -> None:
    for path, text in study_findings.pages(STUDIES).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `make docs`"


def test_every_grid_has_its_place_on_the_page() -> None:
    assert sorted(study_findings.ORDER) == sorted(
        p.stem for p in study_findings.GRIDS.glob("*.yaml")
    )


def test_the_readme_has_the_figures_that_were_found() -> None:
    text = _words(STUDIES.parents[1] / "README.md")
    found, mix = (
        study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
        for name in ("mixed-sources", "learned-mix-good")
    )
    assert _difference(mix, "learned-from-.5", "tuned", "avg@8", "steps") in text
    told: list[tuple[str, str, Axis]] = [
        ("fixed", "pass@1", "steps"),
        ("rl", "avg@8", "steps"),
        ("rl", "avg@8", "device_seconds"),
    ]
    for reference, figure, axis in told:
        assert _difference(found, "learned", reference, figure, axis) in text, reference
    (rl,) = [arm for arm in found.arms if arm.arm == "rl"]
    assert f"RL alone at {rl.figures['pass@1'].value:.3f}" in text


def test_readme_and_log_have_the_figures_of_a_learned_mix_on_harmful_demonstrations() -> None:
    readme, log = _words(STUDIES.parents[1] / "README.md"), _words(STUDIES / "README.md")
    decision = _words(STUDIES.parent / "adr/0015-sources-are-weighed-without-w.md")
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
    _require_told(found, told)
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


def test_readme_and_log_have_the_figures_of_the_rivals() -> None:
    readme, log = _words(STUDIES.parents[1] / "README.md"), _words(STUDIES / "README.md")
    rivals = study_findings.read(STUDIES / "rivals", study_findings.GRIDS / "rivals.yaml")[1]
    for reference in ("rl", "cold_start", "sum"):
        told = _difference(rivals, "bridge", reference, "avg@8", "steps")
        assert told in readme, reference
        assert told in log, reference
    for reference in ("sum", "alternate"):
        told = _difference(rivals, "bridge", reference, "avg@8", "device_seconds")
        assert told in readme, reference
        assert told in log, reference
    for reference in ("rl", "cold_start"):
        assert _difference(rivals, "bridge", reference, "avg@8", "device_seconds") in log


def test_the_log_has_the_trials_where_most_groups_get_no_reward() -> None:
    log = _words(STUDIES / "README.md")
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


def test_the_log_has_the_trials_on_a_real_model() -> None:
    log, name = _words(STUDIES / "README.md"), "smollm2-sources"
    found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
    of_sft = [trial.reward for trial in found.trials if trial.arm == "cold_start"]
    assert of_sft[:2] == [None, None]
    threshold, *epochs = (f"{reward:.3f}" for reward in of_sft[2:6] if reward is not None)
    assert "is {} after one epoch, {} after two, {} after three".format(*epochs) in log
    (after,) = (trial.reward for trial in found.trials if trial.arm == "learned-after-sft")
    assert f"after two epochs their reward is {after:.3f}." in log
    assert f"{threshold} where the threshold ends SFT after three steps" in log


def test_readme_and_log_have_the_figures_where_most_groups_get_no_reward() -> None:
    pages = (STUDIES / "README.md", STUDIES.parent / "adr/0018-w-without-a-shadow.md")
    log, decision = map(_words, pages)
    readme, results = map(_words, (STUDIES.parents[1] / "README.md", STUDIES.parent / "results.md"))
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
    _require_told(found, told)
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
    assert (
        f"{_interval(gain.gain, 4)} where the separate RL run is {gain.reward.value:.3f} b" in log
    )


def _higher(found: Findings, figure: str, axis: Axis) -> set[str]:
    """The references that bridge is higher than, after Holm."""
    own = [c for c in found.contrasts if (c.figure, c.axis) == (figure, axis)]
    return {c.reference for c in own if c.reads.startswith("higher")}


def test_readme_and_log_have_the_figures_with_equal_seconds() -> None:
    readme, log = _words(STUDIES.parents[1] / "README.md"), _words(STUDIES / "README.md")
    decision = _words(STUDIES.parent / "adr/0019-cooperation-after-sft.md")
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
    _require_told(found, told)
    reads = _reads(found)
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
    assert f"many steps of SFT ({ratio} on" in _words(STUDIES.parent / "how-it-works.md")


def test_readme_and_log_have_the_figures_where_demonstrations_are_few() -> None:
    readme, log = _words(STUDIES.parents[1] / "README.md"), _words(STUDIES / "README.md")
    decision = _words(STUDIES.parent / "adr/0019-cooperation-after-sft.md")
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
    _require_told(found, told)
    reads = _reads(found)
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
    in_pass = _difference(found, after, "cold_start", "pass@1", "device_seconds")
    assert f"in pass@1 {in_pass} at equal device-seconds" in log
    gain = found.gains[0]
    assert f"{_interval(gain.gain, 4)} where the separate RL run is {gain.reward.value:.3f}" in log


def test_what_made_the_default_has_the_figures_that_were_found() -> None:
    pages = (STUDIES / "README.md", STUDIES.parent / "adr/0018-w-without-a-shadow.md")
    log, decision = map(_words, pages)
    readme = _words(STUDIES.parents[1] / "README.md")
    grid = study_findings.GRIDS / "without-shadow.yaml"
    found = study_findings.read(STUDIES / "without-shadow", grid)[1]
    told: list[Told] = [
        ("w-mixture", "bridge", "steps", (readme, log, decision)),
        ("w-mixture", "bridge", "device_seconds", (readme, log, decision)),
        ("w-mixture", "cold_start", "steps", (decision,)),
        ("w-mixture", "cold_start", "device_seconds", (readme, log, decision)),
        ("w-mixture", "sum", "steps", (log, decision)),
        ("w-mixture", "sum", "device_seconds", (readme, log, decision)),
        ("bridge", "sum", "steps", (decision,)),
        ("bridge", "sum", "device_seconds", (log, decision)),
        ("bridge", "cold_start", "steps", (log,)),
        ("w-sft", "bridge", "steps", (log,)),
        ("w-sft", "sum", "device_seconds", (log,)),
    ]
    _require_told(found, told)
    told_in_pass = _difference(found, "w-sft", "bridge", "pass@1", "steps")
    assert told_in_pass in log
    assert told_in_pass in decision


def test_what_the_bracket_is_worth_has_the_figures_that_were_found() -> None:
    pages = (STUDIES / "README.md", STUDIES.parent / "adr/0018-w-without-a-shadow.md")
    log, decision = map(_words, pages)
    readme = _words(STUDIES.parents[1] / "README.md")
    grid = study_findings.GRIDS / "w-objective.yaml"
    found = study_findings.read(STUDIES / "w-objective", grid)[1]
    close, long = "cooperative-penalty-.97", "cooperative-resync-20"
    told: list[Told] = [
        ("cooperative", "random", "steps", (readme, log, decision)),
        ("cooperative", "mixture", "steps", (log, decision)),
        ("cooperative", "sft", "steps", (log,)),
        ("cooperative", "frozen", "steps", (log,)),
        ("cooperative", "mixture", "device_seconds", (log, decision)),
        ("cooperative", "sft", "device_seconds", (log,)),
        ("cooperative", "frozen", "device_seconds", (log,)),
        (close, "random-penalty-.97", "steps", (readme, log, decision)),
        (close, "sft", "steps", (log,)),
        (long, "sft", "steps", (log,)),
        (f"{long}-penalty-.97", "sft", "steps", (log,)),
    ]
    _require_told(found, told)
    by_pair = {(d.arm, d.reference): d.differences for d in found.diagnostics}
    gain = "gain/pooled"
    assert _interval(by_pair["cooperative", "random"][gain], 4) in log
    harmful = by_pair[close, "random-penalty-.97"]
    assert _interval(harmful[gain], 4) in log
    assert _interval(harmful["guidance/grad_sft_norm"], 4) in log
    assert _difference(found, close, "random-penalty-.97", "training reward", "steps") in log


def test_readme_and_log_have_the_figures_of_wrong_rewards() -> None:
    readme, log = _words(STUDIES.parents[1] / "README.md"), _words(STUDIES / "README.md")
    grid = study_findings.GRIDS / "robustness.yaml"
    found = study_findings.read(STUDIES / "robustness", grid)[1]
    for share in ("", "-flip-.1", "-flip-.2", "-flip-.3"):
        told = _difference(found, f"bridge{share}", f"rl{share}", "avg@8", "steps")
        assert told in log, share
        assert share not in ("-flip-.1", "-flip-.2") or told in readme, share
        told = _difference(found, f"bridge{share}", f"rl{share}", "avg@8", "device_seconds")
        assert share not in ("-flip-.1", "-flip-.2") or told in log, share
    nll = [_interval(d.differences["eval/demonstrations/nll"], 4) for d in found.diagnostics]
    assert len(nll) == 4
    assert ", ".join(nll) in log
    assert _interval(found.diagnostics[-1].differences["forgetting/nll_rise"], 4) in log


def test_every_p_is_that_of_the_difference_before_it() -> None:
    found_p: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    for name in sorted(p.parent.name for p in STUDIES.glob("*/study.json")):
        found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
        for c in (*found.contrasts, *found.fresh):
            if c.difference and c.difference.low is not None:
                found_p[_interval(c.difference, 3)] += [(c.p_holm, c.equivalence_p_holm)]
    pages = [STUDIES / "README.md", STUDIES.parents[1] / "README.md"]
    for page in (*pages, *(STUDIES.parent / "adr").glob("*.md")):
        text = _words(page)
        for told in re.finditer(r"\bp (< )?(0\.\d+)", text):
            before = [*DIFFERENCE.finditer(text, 0, told.start())][-1]
            clause = text[before.end() : told.start()].split(";")[-1]
            own = [p["within" in clause] for p in found_p[before[0]]]
            digits = len(told[2]) - 2
            assert any(
                p is not None and (p < float(told[2]) if told[1] else f"{p:.{digits}f}" == told[2])
                for p in own
            ), f"{page}: {text[before.start() : told.end()]}"


def _words(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").split())


def _require_told(found: Findings, told: list[Told]) -> None:
    for arm, reference, axis, texts in told:
        difference = _difference(found, arm, reference, "avg@8", axis)
        assert all(difference in text for text in texts), (arm, reference, axis)


def _reads(found: Findings) -> dict[tuple[str, str], str]:
    """What avg@8 at equal device-seconds says of every declared pair."""
    own = [c for c in found.contrasts if (c.figure, c.axis) == ("avg@8", "device_seconds")]
    return {(c.arm, c.reference): c.reads for c in own}


def _difference(found: Findings, arm: str, reference: str, figure: str, axis: Axis) -> str:
    own = [c for c in found.contrasts if (c.arm, c.reference) == (arm, reference)]
    (d,) = [c.difference for c in own if (c.figure, c.axis) == (figure, axis)]
    assert d is not None
    return _interval(d, 3)


def _interval(mean: Mean, digits: int) -> str:
    shown = f"{mean.value:+.{digits}f} [{mean.low:+.{digits}f}, {mean.high:+.{digits}f}]"
    return shown.replace("-", "−")


def test_raw_figures_are_small() -> None:
    assert sum(path.stat().st_size for path in STUDIES.rglob("*") if path.is_file()) < MOST_BYTES


def test_a_study_that_is_half_done_says_so(tmp_path: Path) -> None:
    study = read_study(write_grid(tmp_path, known_seeds=[1]), tmp_path / "runs")
    for i, run in enumerate(study.runs({})[:4]):
        finish(run, {0: [0, 0], 20: [i % 2, 2 - i // 2]})
    write_archive(study, Progress().finished(study.runs({})), tmp_path / "export")
    section = study_findings.section_of("x", *study_findings.read(tmp_path / "export", study.path))
    assert "## Does it help?" in section
    assert "4 of 6 runs of its arms: bridge, rl." in section
    assert "| bridge − rl | 2 | -0.250 [" in section
    assert "2 of 3 declared seeds so far" in section
    assert "In short: avg@2, without seeds 1:" in section
    assert "| bridge − rl | 1 | -0.250 |" in section
