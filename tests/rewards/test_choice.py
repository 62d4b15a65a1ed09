"""The letter of an option in the forms models write it, and letters that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop_rl.rewards.choice import verify_choice
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(B)}}", "B"),
        (r"\boxed{\textbf{(B)}\ 12}", "B"),
        (r"\boxed{b}", "B"),
        ("#### B", "B"),
        ("<answer>(B) 12</answer>", "B"),
        ("The answer is (B).", "B"),
        ("Answer: B", "B"),
        ("answer is **B**", "B"),
        ("A is wrong, so the correct option is B", "B"),
        ("Not the answer A. The answer is C", "C"),
        ("I choose\n**B**", "B"),
        ("A train leaves", ""),
        ("the answer is a dog", ""),
        ("The answer is Boston", ""),
        (r"\boxed{12}", ""),
        ("", ""),
    ],
)
def test_the_letter_is_read(text: str, letter: str) -> None:
    for gold in ("(B)", "B"):
        verdict = verify_choice(Answer(text, gold), SETTINGS)
        assert verdict.answer == letter
        assert verdict.is_correct == (letter == "B")


@given(st.text())
def test_any_text_gets_a_verdict(text: str) -> None:
    verify_choice(Answer(text, "B"), SETTINGS)
