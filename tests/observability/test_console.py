"""What the user sees: on a terminal, and in a file."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from coop_rl.config import derive_sizes, load_config
from coop_rl.data.rows import Dropped
from coop_rl.evaluation.result import Comparison
from coop_rl.observability.console import RunConsole, clean
from coop_rl.observability.ledger import Ledger
from coop_rl.observability.metrics import step_metrics
from tests.observability.records import RIGHT, TIMEOUT, bridge, evaluated, sft

BAD_KINDS = (
    ("too long", 2, "b.jsonl:7: prompts may have 4 tokens, got 9"),
    ("not JSON", 1, "b.jsonl:9: not JSON"),
)
DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"
RUN = Path("/a/long/path/to/the/runs/of/somebody/who/likes/long/names/and/nested/folders/demo")


def plain() -> tuple[RunConsole, io.StringIO]:
    file = io.StringIO()
    return RunConsole(Console(file=file, width=80, highlight=False)), file


@pytest.mark.parametrize(("ranks", "stage"), [(1, "ZeRO 0"), (2, "ZeRO 2")])
def test_plan_shows_every_derived_size(ranks: int, stage: str) -> None:
    """A single fp32 rank has nothing to split."""
    console, file = plain()
    config = load_config(DEMO, [f"learner.num_ranks={ranks}"])
    console.show_plan(config, derive_sizes(config), RUN, None)
    text = file.getvalue()
    for expected in ("prompts per step", "256", stage, "learner shadow"):
        assert expected in text
    assert f"run directory {RUN}\n" in text
    assert "resumes" not in text
    console.show_plan(config, derive_sizes(config), RUN, RUN / "checkpoints/step-000004")
    assert "resumes from" in file.getvalue()


def test_a_step_is_one_plain_line_in_a_file() -> None:
    console, file = plain()
    console.begin(3, 10)
    console.step(step_metrics(bridge(3), {"time/step_s": 2.0}))
    console.step(step_metrics(sft(4), {"time/step_s": 4.0}))
    assert file.getvalue().splitlines() == [
        "step  4/10  reward 0.750  gain +0.0110 ± 0.0020  sft 0.700  2.0 s  0:00:12 left",
        "step  5/10  sft 0.700  4.0 s  0:00:15 left",
    ]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_line_fits_and_what_matters_most_stays(width: int) -> None:
    file = io.StringIO()
    console = RunConsole(Console(file=file, width=width, highlight=False))
    console.begin(0, 100_000)
    console.step(step_metrics(bridge(9_999), {"time/step_s": 123.4}))
    (line,) = file.getvalue().splitlines()
    assert len(line) <= width
    assert line.startswith("step  10000/100000  reward 0.750")
    assert ("accuracy 0.750" in line) == ("tokens/s" in line) == (width == 160)


def test_quiet_says_what_was_found_and_no_more() -> None:
    file = io.StringIO()
    console = RunConsole(Console(file=file, width=80, highlight=False), is_quiet=True)
    config = load_config(DEMO)
    console.show_plan(config, derive_sizes(config), RUN, None)
    console.milestone("starting actors")
    console.begin(0, 1)
    console.step(step_metrics(bridge(0), {"time/step_s": 2.0}))
    console.sample("2+2=?", "4", RIGHT)
    assert file.getvalue() == ""
    console.evaluation(1, evaluated("sums", 1, 2, 10).metrics())
    console.summary(RUN, [], 3.0)
    assert file.getvalue().startswith("evaluated after 1 steps: sums/pass@1 0.200")
    assert "1 steps in 0:00:03; 9 tokens generated" in file.getvalue()


def test_terminal_keeps_lines_above_the_bar() -> None:
    file = io.StringIO()
    console = RunConsole(Console(file=file, width=200, force_terminal=True, highlight=False))
    console.begin(0, 10)
    console.step(step_metrics(bridge(0), {"time/step_s": 2.0}))
    console.summary(RUN, [], 3.0)
    assert "step  1/10" in file.getvalue()
    assert "1/10" in file.getvalue()


def test_evaluation_and_summary() -> None:
    console, file = plain()
    metrics = evaluated("sums", 0, 2, 10).metrics()
    console.evaluation(0, metrics)
    assert "evaluated after 0 steps: sums/pass@1 0.200 [" in file.getvalue()
    console.begin(0, 2)
    console.step(step_metrics(bridge(0), {"time/step_s": 2.0}))
    console.summary(RUN, [Comparison(evaluated("sums", 0, 2, 10), evaluated("sums", 6, 7, 10))], 65)
    text = file.getvalue()
    for expected in ("before (0 steps)", "after (6 steps)", "pass@1", "avg@4", "+0.500", "0:01:05"):
        assert expected in text
    assert "9 tokens generated" in text
    assert "of theta: 1 applied, 0 skipped; of w: 1 applied, 0 skipped" in text
    assert f"run directory {RUN}\n" in text


def test_the_summary_of_guidance_without_w_counts_no_updates_of_w() -> None:
    console, file = plain()
    record = bridge(0)
    assert record.update is not None
    console.begin(0, 1)
    without_w = replace(record, update=replace(record.update, adapter_norm=math.nan))
    console.step(step_metrics(without_w, {"time/step_s": 2.0}))
    console.summary(RUN, [], 1.0)
    assert "of theta: 1 applied, 0 skipped\n" in file.getvalue()
    assert "of w" not in file.getvalue()


def test_what_a_model_wrote_cannot_drive_the_terminal() -> None:
    console, file = plain()
    hostile = "\x1b[2J\x1b]0;title\x07[red]1[/red]\r\n2\u202e\u200b\x00\x9b31m\ud800"
    console.sample("2+2=?\n", hostile, RIGHT)
    console.sample("?", "x" * 1000, TIMEOUT)
    first, second = file.getvalue().splitlines()
    assert first == "sample  2+2=?⏎  ->  [2J]0;title[red]1[/red]⏎231m  (right)"
    assert len(second) < 200
    assert second.endswith("…  (timeout)")


def test_clean_keeps_other_scripts() -> None:
    assert clean("数学 λ ≤ é 🙂") == "数学 λ ≤ é 🙂"


def test_the_summary_says_what_the_run_has_spent() -> None:
    console, file = plain()
    config = load_config(DEMO)
    ledger = Ledger(config)
    console.begin(3, 5)
    for record in (bridge(3), sft(4)):
        console.step(step_metrics(record, {"time/step_s": 2.0}) | ledger.add(record, 2.0))
    console.summary(RUN, [], 4.0)
    assert (
        "spent: 9 tokens generated; trained 9 rl, 40 sft, 9 shadow; 2 optimiser steps; "
        "4 demonstrations; 7.4e+05 FLOP; 8 device-seconds\n"
    ) in file.getvalue()


def test_what_was_left_out_is_said_once_with_the_first_of_each_kind() -> None:
    console, file = plain()
    console.dropped([Dropped("a.jsonl", 100, ()), Dropped("b.jsonl", 40, BAD_KINDS)])
    assert file.getvalue().splitlines() == [
        "b.jsonl: 3 of 40 rows left out (7.5%)",
        "  2 x too long; the first: b.jsonl:7: prompts may have 4 tokens, got 9",
        "  1 x not JSON; the first: b.jsonl:9: not JSON",
    ]
