"""Progress and tables of an evaluation, as a file and an 80-column terminal get them."""

import io

from rich.console import Console

from coop_rl.evaluation.result import Comparison, EvaluationResult
from coop_rl.observability.evaluation_console import EvaluationConsole
from tests.observability.records import evaluated


def result(num_right: int, name: str = "gsm8k") -> EvaluationResult:
    return evaluated(name, 0, num_right, 20)


def plain(width: int) -> tuple[EvaluationConsole, io.StringIO]:
    file = io.StringIO()
    return EvaluationConsole(Console(file=file, width=width, highlight=False)), file


def test_a_set_has_one_row_with_intervals_below() -> None:
    console, file = plain(120)
    console.begin("gsm8k", 40)
    for _ in range(40):
        console.advance()
    console.end(result(5))
    console.table("smol", [result(5), result(10, "aime24")])
    text = file.getvalue()
    assert "gsm8k: 20 items, 21,140 tokens in 10.0 s, 2,114 tokens/s" in text
    header = next(line for line in text.splitlines() if "pass@1" in line)
    figures = ["pass@1", "avg@4", "pass@2", "pass@4", "maj@4"]
    assert header.split() == ["set", *figures, "tokens", "cut", "off", "format", "unscored"]
    lines = text.splitlines()
    row = next(i for i, line in enumerate(lines) if line.split()[:2] == ["gsm8k", "0.250"])
    values, intervals = lines[row : row + 2]
    assert values.split()[1:] == ["0.250"] * 5 + ["211", "12.5%", "90.0%", "0.0%"]
    assert intervals.split()[:3] == ["20", "items", "0.11–0.47"]
    assert "…" not in text


def test_differences_are_paired_and_other_items_are_named() -> None:
    console, file = plain(120)
    console.differences("base", "tuned", [Comparison(result(5), result(10))], ["aime24"])
    text = file.getvalue()
    for expected in ("base", "tuned", "difference (paired)", "+0.250 [+0.0", "pass@4", "maj@4"):
        assert expected in text
    assert "aime24: not compared, the two were measured on different items" in text


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    file = io.StringIO()
    console = EvaluationConsole(Console(file=file, width=100, force_terminal=True))
    console.begin("gsm8k", 2)
    console.advance()
    console.advance()
    console.close()
    assert "2/2" in file.getvalue()


def test_a_narrow_terminal_gets_a_list() -> None:
    console, file = plain(80)
    console.table("smol", [result(5), result(10, "aime24")])
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["gsm8k", "(20)", "pass@1", "0.250", "[0.112,", "0.469]"] in lines
    assert ["cut", "off", "12.5%"] in lines
    assert "…" not in file.getvalue()
