"""Said of what w follows: it is what was found."""

from docs import study_findings
from tests.study.told import STUDIES, Told, difference, interval, require_told, words


def test_what_made_the_default_has_the_figures_that_were_found() -> None:
    pages = (STUDIES / "README.md", STUDIES.parent / "adr/0018-w-without-a-shadow.md")
    log, decision = map(words, pages)
    readme = words(STUDIES.parents[1] / "README.md")
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
    require_told(found, told)
    told_in_pass = difference(found, "w-sft", "bridge", "pass@1", "steps")
    assert told_in_pass in log
    assert told_in_pass in decision


def test_what_the_bracket_is_worth_has_the_figures_that_were_found() -> None:
    pages = (STUDIES / "README.md", STUDIES.parent / "adr/0018-w-without-a-shadow.md")
    log, decision = map(words, pages)
    readme = words(STUDIES.parents[1] / "README.md")
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
    require_told(found, told)
    by_pair = {(d.arm, d.reference): d.differences for d in found.diagnostics}
    gain = "gain/pooled"
    assert interval(by_pair["cooperative", "random"][gain], 4) in log
    harmful = by_pair[close, "random-penalty-.97"]
    assert interval(harmful[gain], 4) in log
    assert interval(harmful["guidance/grad_sft_norm"], 4) in log
    assert difference(found, close, "random-penalty-.97", "training reward", "steps") in log
