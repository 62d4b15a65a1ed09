"""The verifier `number` on what models write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop_rl.rewards.number import gold_number, render_number, verify_number
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings(marker="#")


@pytest.mark.parametrize(
    ("text", "gold", "is_right"),
    [
        ("The final answer is 7.", "7", True),
        ("3 + 4 = 7", "7", True),
        ("7 = 3 + 4", "7", False),
        ("3 - 8 = -5", "-5", True),
        ("3 - 8 = -5", "5", False),
        ("so 8-5", "5", True),
        ("\u22125", "-5", True),
        ("= 1,234", "1234", True),
        ("7.0", "7", True),
        ("7.5", "7", False),
        ("+7", "7", True),
        ("x7", "7", False),
        ("", "7", False),
        ("no number", "7", False),
        ("9" * 100_000, "9", False),
        ("1," * 50_000 + "1", "1", True),
        ("7" + " " * 100_000, "7", True),
    ],
)
def test_last_number_counts(text: str, gold: str, is_right: bool) -> None:
    verdict = verify_number(Answer(text, gold), SETTINGS)
    assert verdict.is_correct == is_right
    assert verdict.value == float(is_right)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("gold", "is_number"),
    [
        (r"4 \text{cm}", True),
        (r"4~\mathrm{km/h}.", True),
        ("4 °C", True),
        ("4 apples, of those that are sold in the shops of this town!", False),
        ("4" + "a" * 60 + "!", False),
        ("4" + ". " * 180 + "!", False),
    ],
)
def test_what_follows_a_gold_answer_is_read_in_no_time(gold: str, is_number: bool) -> None:
    assert (gold_number(gold) is not None) == is_number


@given(st.integers(-(10**30), 10**30), st.text(alphabet="abc .=\n"))
def test_gold_is_right_wherever_it_comes_last(number: int, before: str) -> None:
    text = f"{before} {render_number(str(number), SETTINGS)}"
    assert verify_number(Answer(text, str(number)), SETTINGS).is_correct
    assert not verify_number(Answer(text, str(number + 1)), SETTINGS).is_correct


@given(st.text())
def test_never_raises(text: str) -> None:
    verify_number(Answer(text, "1"), SETTINGS)
