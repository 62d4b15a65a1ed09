"""The verifier `number` by kind: a number is read whole, or it is none."""

import random

import pytest

from coop_rl.rewards.number import gold_number, verify_number
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")

RIGHT = [
    ("It is 1/2.", "1/2"),
    ("It is 0.5", "1/2"),
    (r"It is \frac{1}{2}", "0.5"),
    (r"\boxed{\frac12}", ".5"),
    ("2 1/2 cups", "2.5"),
    ("-1/2", "-0.5"),
    ("about .25", "1/4"),
    (r"$9{,}500$", "9,500"),
    (r"9\,500", "9500"),
    ("1 000 000 people", "1000000"),
    ("12,345,678.5", "12345678.5"),
    ("12,34,567", "1234567"),
    ("1.234,56 EUR", "1234.56"),
    ("-$12", "$-12"),
    ("€ 5", "5"),
    (r"-\$12.50", "-12.5"),
    (r"4.5 \times 10^{33}", "4.5e33"),
    ("3e-2", "0.03"),
    ("3 × 10^2 m", "300"),
    ("2^{10}", "1024"),
    ("10^5", "100,000"),
    ("12 cm^2", r"12 \text{ cm}^2"),
    ("12 m2", "12 m^2"),
    ("12cm", "12"),
    (r"90^\circ", "90"),
    ("12%", "12"),
    (r"12\%", "12%"),
    ("12 (see step 3)", "12"),
    ("12 (in 2020 dollars)", "12"),
    ("step 3 gives 12!", "12"),
    ("٣٤", "34"),
    ("１２", "12"),
    ("−5", "-5"),
    ("the answer is - 5", "-5"),
    (r"\boxed{7}. Check: 3 + 4", "7"),
    ("#### 7\n", "7"),
    ("<answer>7 apples</answer>", "7"),
    ("<think>9</think> so 8", "8"),
    ("x = 5", "5"),
    ("[5]", "5"),
    ("The answer is 5", "The answer is 5"),
    ("8", "Long sum: 5+3=8\n#### 8"),
    ("1,2,3", "3"),
    ("+7", "7.0"),
    ("007", "7"),
    ("5.", "5"),
    ("it is 5, or so", "5"),
]
WRONG = [
    ("2", "1/2"),
    ("It is 1/2", "2"),
    ("1/3", "0.33"),
    ("33", r"4.5 \times 10^{33}"),
    (r"4.5 \times 10^{33}", "33"),
    ("500", "9{,}500"),
    (r"9{,}500", "500"),
    ("2", "12 cm^2"),
    ("12 cm^2", "2"),
    ("$12", "-$12"),
    ("-$12", "12"),
    ("5", ".5"),
    (".5", "5"),
    ("at 10:30", "30"),
    ("at 10:30", "10"),
    ("1.5e3", "3"),
    ("1.5e3", "1.5"),
    ("on 10/12/2024", "2024"),
    ("12_7", "12"),
    ("12_7", "7"),
    (r"\sqrt{2}", "2"),
    (r"5\pi", "5"),
    ("5π", "5"),
    ("5x", "5"),
    ("2^{10}", "10"),
    ("1.2.3", "3"),
    ("1 000 000", "0"),
    ("12,345", "345"),
    ("2 1/2", "0.5"),
    ("1.234,56", "56"),
    ("<think>the sum is 5", "5"),
    (r"<think>\boxed{5} and", "5"),
    ("#### 6\n#### 5", "6"),
    (r"\boxed{5} \boxed{", "5"),
    ("", "0"),
    ("none", "0"),
    ("1/0", "0"),
    ("7 = 3 + 4", "7"),
    ("3 or 4", "3"),
    ("-5", "5"),
    ("1e9999", "1"),
]
UNREAD_GOLDS = (
    "10:30",
    "2 hours 30 minutes",
    "1,2,3",
    "5, 6",
    "3 or 4",
    "12_7",
    "x^2",
    r"\sqrt{2}",
    r"5\pi",
    "5x",
    "1.2.3",
    "3:4",
    "10/12/2024",
    "(1,2)",
    "8 - 5",
    "seven",
    "",
    "1/0",
    "5!",
    "12,34",
    "1.5 to 2",
    "no number",
)


def is_right(text: str, gold: str) -> bool:
    return verify_number(Answer(text, gold), SETTINGS).is_correct


def test_right_answers() -> None:
    assert [row for row in RIGHT if not is_right(*row)] == []


def test_wrong_answers() -> None:
    assert [row for row in WRONG if is_right(*row)] == []


@pytest.mark.parametrize("gold", UNREAD_GOLDS)
def test_a_gold_that_is_no_number_as_a_whole_is_never_right(gold: str) -> None:
    assert gold_number(gold) is None
    assert not is_right(gold, gold)


def spellings(number: int, rng: random.Random) -> list[str]:
    """Ways to write a whole number."""
    commas = f"{number:,}"
    sign, digits = ("-", -number) if number < 0 else ("", number)
    return [
        str(number),
        commas,
        commas.replace(",", "{,}"),
        commas.replace(",", r"\,"),
        f"{number}.0",
        f"{number}.",
        f"{sign}${digits}",
        f"${number}",
        f"{number} cm^2",
        f"{number}%",
        f"{number * 3}/3",
        f"{number}e0",
        f"{number}00 * 10^{{-2}}",
        f"\\frac{{{number * 7}}}{{7}}",
        f"\\boxed{{{number}}}",
        f"{number} (step {rng.randint(1, 9)})",
    ]


@pytest.mark.parametrize("seed", range(10))
def test_every_spelling_is_the_number_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        number = rng.randint(-(10**9), 10**9)
        for written in spellings(number, rng):
            assert is_right(f"So, after step 2, it is {written}", str(number)), written
            assert not is_right(f"So, after step 2, it is {written}", str(number + 1)), written


@pytest.mark.parametrize(
    "piece",
    ["1,", "1/", "1:", "1.", "9", "$", "-", "(aa ", "1e", "\\frac{1", "1*10^", "a^", "1 000 "],
)
def test_long_texts_take_linear_time(piece: str) -> None:
    is_right(piece * 20_000, "5")
