"""Everybody's role, and nothing less."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop_rl.rewards.knights_knaves import roles_in, verify_knights_knaves
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")
GOLD = "(1) Amelia is a knight\n(2) Penelope is a knave\n(3) Evelyn is a knave"
FILE = Path(__file__).parents[3] / "shared/data/benchmarks/knights_knaves/test.jsonl"


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (f"<think>Amelia is a knave?</think><answer>{GOLD}</answer>", True),
        (f"<answer>{GOLD.upper()}</answer>", True),
        ("<answer>Amelia: knight, Penelope: knave, Evelyn: knave</answer>", True),
        (r"\boxed{Amelia is a knight, Penelope is a knave, Evelyn is a knave}", True),
        ("Suppose Evelyn is a knight. Conclusion: Amelia is a **knight**, Penelope is a **knave** "
         "and Evelyn is a **knave**.", True),
        ("<answer>Amelia is a knight, Penelope is a knave</answer>", False),
        ("<answer>Amelia is a knight, Penelope is a knave, Evelyn is a knight</answer>", False),
        (f"<answer>{GOLD}, Evelyn is a knight</answer>", False),
        ("all are knaves", False),
        ("", False),
    ],
)  # fmt: skip
def test_everybody_counts(text: str, is_right: bool) -> None:
    assert verify_knights_knaves(Answer(text, GOLD), SETTINGS).is_correct == is_right


@given(st.text())
def test_any_text_gets_a_verdict(text: str) -> None:
    assert not verify_knights_knaves(Answer(text, GOLD), SETTINGS).is_correct


@pytest.mark.skipif(not FILE.is_file(), reason="shared data are not here")
def test_golds_of_the_benchmark() -> None:
    with FILE.open(encoding="utf-8") as file:
        golds = [json.loads(line)["answer"] for line in file]
    for gold in golds:
        roles = roles_in(gold)
        assert roles
        assert verify_knights_knaves(Answer(f"<answer>{gold}</answer>", gold), SETTINGS).is_correct
        for name, role in roles.items():
            other = {**roles, name: "knave" if role == "knight" else "knight"}
            wrong = ", ".join(f"{n} is a {r}" for n, r in other.items())
            assert not verify_knights_knaves(
                Answer(f"<answer>{wrong}</answer>", gold), SETTINGS
            ).is_correct
