"""The published studies: their pages are what their raw figures give."""

import re
from collections import defaultdict
from pathlib import Path

from coop_rl.study.archive import write_archive
from coop_rl.study.planned import read_study
from coop_rl.study.runs import Progress
from docs import study_findings
from tests.study.stored import finish, write_grid
from tests.study.told import STUDIES, interval, words

MOST_BYTES = 20e6
DIFFERENCE = re.compile(r"[+−]\d\.\d+ \[[+−]\d\.\d+, [+−]\d\.\d+\]")


def test_pages_are_those_of_the_raw_figures() -> None:
    for path, text in study_findings.pages(STUDIES).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `make docs`"


def test_every_grid_has_its_place_on_the_page() -> None:
    assert sorted(study_findings.ORDER) == sorted(
        p.stem for p in study_findings.GRIDS.glob("*.yaml")
    )


def test_every_p_is_that_of_the_difference_before_it() -> None:
    found_p: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    for name in sorted(p.parent.name for p in STUDIES.glob("*/study.json")):
        found = study_findings.read(STUDIES / name, study_findings.GRIDS / f"{name}.yaml")[1]
        for c in (*found.contrasts, *found.fresh):
            if c.difference and c.difference.low is not None:
                found_p[interval(c.difference, 3)] += [(c.p_holm, c.equivalence_p_holm)]
    pages = [STUDIES / "README.md", STUDIES.parents[1] / "README.md"]
    for page in (*pages, *(STUDIES.parent / "adr").glob("*.md")):
        text = words(page)
        for told in re.finditer(r"\bp (< )?(0\.\d+)", text):
            before = [*DIFFERENCE.finditer(text, 0, told.start())][-1]
            clause = text[before.end() : told.start()].split(";")[-1]
            own = [p["within" in clause] for p in found_p[before[0]]]
            digits = len(told[2]) - 2
            assert any(
                p is not None and (p < float(told[2]) if told[1] else f"{p:.{digits}f}" == told[2])
                for p in own
            ), f"{page}: {text[before.start() : told.end()]}"


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
