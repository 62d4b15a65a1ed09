"""The verifier `math`: tables of tricky answers both ways, real golds, hostile text."""

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coop_rl.rewards.final_answer import find_final_answer
from coop_rl.rewards.math_answer import verify_math
from coop_rl.rewards.math_bombs import is_bomb
from coop_rl.rewards.math_text import normalise
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")
BENCHMARKS = Path(__file__).parents[3] / "shared/data/benchmarks"


def is_right(given: str, gold: str, details: str = "") -> bool:
    return verify_math(Answer(f"\\boxed{{{given}}}", gold, details), SETTINGS).is_correct


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("4.5e33", r"4.5 \times 10^{33}"),
        (r"4.5 \cdot 10^{33}", "4.5e33"),
        (r"1.6\times 10^{-19}", "1.6e-19"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        ("1/2", r"\frac12"),
        ("0.5", r"\frac{1}{2}"),
        ("0.333333", r"\frac{1}{3}"),
        (r"3\frac{1}{2}", "7/2"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        (r"1,\!234", "1234"),
        (r"\$18.90", "18.9"),
        ("$36$", r"\$36"),
        (r"5\text{ cm}", "5"),
        (r"5 \mathrm{~cm}", "5"),
        (r"9.8 \mathrm{~m} / \mathrm{s}^{2}", "9.8 \\mathrm{~m} / \\mathrm{s}^{2}"),
        ("5 cm", "5"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"50\%", "50"),
        ("x = 5", "5"),
        ("2, 1", "1,2"),
        (r"3 \text{ or } 5", "3,5"),
        (r"\{1, 2\}", "1,2"),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"),
        (r"(x+1)^2", "x^2+2x+1"),
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"[1, 2)", "[1,2)"),
        (r"\text{even}", "even"),
        (r"\textbf{(073)}", "73"),
        (r"\text{Evelyn}", r"\text{Evelyn}"),
        (r"2 - \sqrt{3}", r"-\sqrt{3}+2"),
        ("-1./3", r"-\frac{1}{3}"),
        ("np.arcsin(10/13)", r"\arcsin{10/13}"),
        ("6:00", "6:00"),
        ("7.0", "7"),
        ("100!", "100!"),
        ("2^{1009}", "2^{1009}"),
    ],
)
def test_equal_answers_are_right(given: str, gold: str) -> None:
    assert is_right(given, gold)


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("4", "5"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        (r"\frac{11}{2}", r"\frac{1}{12}"),
        ("2^{1}3", "2^{13}"),
        (r"\text{AB} 1", r"\text{A} 1"),
        ("2.88e-19", "1.325e-27"),
        ("1.0e-30", "0"),
        ("1000001", "1000000"),
        ("3000001", "3e6"),
        ("0.33", r"\frac{1}{3}"),
        ("5:00", "6:00"),
        ("(1,2)", "[1,2]"),
        ("(1,2)", "(2,1)"),
        ("1,2,3", "1,2"),
        ("1", "1,2"),
        ("5 million", "5"),
        (r"5\pi", "5"),
        ("x+1", "x+2"),
        (r"\text{odd}", r"\text{even}"),
        ("-3", "3"),
        (r"\frac{2}{1}", r"\frac{1}{2}"),
        (r"\sum_{i=1}^{10^9} 1", "1000000000"),
        ("", "0"),
        ("I do not know", "0"),
        (r"\pm 2", "2"),
    ],
)
def test_unequal_answers_are_wrong(given: str, gold: str) -> None:
    assert not is_right(given, gold)


def test_golds_and_tolerance_in_details() -> None:
    assert is_right("3", "x", json.dumps({"golds": ["2", "3"]}))
    assert not is_right("4", "x", json.dumps({"golds": ["2", "3"]}))
    assert is_right("23", "x", json.dumps({"golds": "23"}))
    assert not is_right("3", "x", json.dumps({"golds": "23"}))
    assert is_right("3", "x", json.dumps({"golds": [3], "tolerance": ""}))
    assert is_right("3.05", "3", json.dumps({"tolerance": 0.1}))
    assert not is_right("3.2", "3", json.dumps({"tolerance": "1e-1"}))


def test_the_last_number_of_a_cut_off_response_is_no_answer() -> None:
    for is_truncated in (True, False):
        unmarked = Answer("so far 4", "4", is_truncated=is_truncated)
        marked = Answer(r"\boxed{4} and", "4", is_truncated=is_truncated)
        assert verify_math(unmarked, SETTINGS).is_correct != is_truncated
        assert verify_math(marked, SETTINGS).is_correct


@pytest.mark.parametrize(
    ("first", "second"),
    [("0.5", r"\frac{1}{2}"), (r"\dfrac{4}{2}", "2"), ("1, 2", "2,1"), ("x=5", "x = 5")],
)
def test_equal_answers_vote_together(first: str, second: str) -> None:
    votes = [verify_math(Answer(f"\\boxed{{{t}}}", "0"), SETTINGS).answer for t in (first, second)]
    assert votes[0] == votes[1] != ""


BOMBS = [
    "9**9**9**9", "9^{9^{9^{9}}}", "10^{10^{10}}!", "((((9!)!)!)!)!", r"\binom{10000000}{5000000}",
    "(x+y+z)^{2000}", "(" * 3000 + "1" + ")" * 3000, "9" * 5000, ",".join("1" * 20_000),
    "2^{99999999}", "1+" * 50_000 + "1", r"\frac{" * 500, "1000000000!",
    r"{" * 200 + "1" + "}" * 200,
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_bombs_are_turned_away_unread(bomb: str) -> None:
    final = find_final_answer(f"\\boxed{{{bomb}}}")
    assert final is None or is_bomb(normalise(final.text))
    assert not is_right(bomb, "4")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.text(alphabet="0123456789xyz+-*/^_(){}[]\\ ,.=!%$&frac sqrt", max_size=40))
def test_any_text_gets_a_verdict(text: str) -> None:
    verify_math(Answer(text, "4"), SETTINGS)
    verify_math(Answer(f"\\boxed{{{text[:15]}}}", "4"), SETTINGS)


def rows(name: str, step: int) -> list[dict]:
    with (BENCHMARKS / name / "test.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, 0, None, step)]


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="shared data are not here")
@pytest.mark.parametrize(
    ("name", "step"),
    [("math500", 3), ("minerva_math", 3), ("olympiadbench", 6), ("aime24", 1), ("gsm8k", 7)],
)
def test_golds_of_benchmarks(name: str, step: int) -> None:
    """All of them, with the exact floors: bench/verifiers.py."""
    items = rows(name, step)
    rejected = []
    for item, other in zip(items, items[1:] + items[:1], strict=True):
        gold = item["answer"]
        details = json.dumps({"golds": [item.get("answer_tex") or gold]})
        assert not is_bomb(normalise(gold))
        assert is_right(gold.replace("\\frac", "\\dfrac"), gold, details)
        if name in ("math500", "gsm8k", "aime24"):
            assert verify_math(Answer(item["solution"], gold, details), SETTINGS).is_correct
        next_gold = other.get("answer_tex") or other["answer"]
        rejected.append(not is_right(next_gold, gold, details) or next_gold == gold)
    assert sum(rejected) >= 0.98 * len(items)
