"""The verifier `math` by kind of answer: read whole or not at all, and compared exactly."""

import random
from fractions import Fraction

import pytest

from coop_rl.rewards.math_answer import verify_math
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")

RIGHT = {
    "read in part": [
        (r"1, 2, \ldots, n", r"1, 2, \ldots, n"),
        (r"1,2,\dots,n", r"1, 2, \ldots, n"),
        ("2 hours 30 minutes", r"2 \text{ hours } 30 \text{ minutes}"),
        (r"n \equiv 3 \pmod{7}", r"n \equiv 3 \pmod 7"),
        ("n ≡ 3 (mod 7)", r"n\equiv3\pmod{7}"),
        (
            r"k=1 \text{ if } n \text{ is odd, } 2 \text{ otherwise}",
            r"k=1 \text{ if } n \text{ is odd, } 2 \text{ otherwise}",
        ),
        (
            r"\begin{cases} 1 & x>0 \\ 2 & x<0 \end{cases}",
            r"\begin{cases}1 & x>0\\2 & x<0\end{cases}",
        ),
        ("June 20", r"\text{June 20}"),
        ("all odd n", r"\text{all odd }n"),
    ],
    "constants": [
        (r"5\mathrm{e}", "5e"),
        (r"\mathrm{e}^2", "e^2"),
        (r"2+3\mathrm{i}", "2+3i"),
        ("i^2", "-1"),
        (r"\frac{\mathrm{e}}{2}", "e/2"),
        ("2i+1", r"1+2\sqrt{-1}"),
        ("π", r"\pi"),
    ],
    "bases": [
        ("12_7", "12_{7}"),
        ("012_7", "12_7"),
        (r"12_{\text{seven}}", "12_7"),
        ("-37_8", "-37_{8}"),
        (r"12_{\text{base }7}", "12_7"),
        ("11_{10}", "11"),
        ("1A3_{16}", "1a3_{16}"),
    ],
    "exact numbers": [
        (r"\frac{1}{52!}", "1/52!"),
        ("2^{-60}", r"\frac{1}{2^{60}}"),
        (r"\frac{2}{52!}", r"\frac{1}{26 \cdot 51!}"),
        ("10^{-30}", "1e-30"),
        ("1.0", "1"),
        (r"(\frac{1}{52!}, 2)", r"(\frac{1}{52!}, 2)"),
        ("e^{-100}", r"\frac{1}{e^{100}}"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}"),
    ],
    "commas": [
        ("1,234,567", "1234567"),
        ("1{,}234", "1234"),
        (r"1\,234", "1234"),
        ("1 234 567", "1234567"),
        ("1,00,000", "100000"),
        ("$1,234.50", "1234.5"),
        ("12, 3", "3, 12"),
    ],
    "units": [
        ("10 km", "10"),
        ("10", "10 km"),
        (r"10\text{ cm}^2", "10"),
        ("10 meters", "10 m"),
        (r"10\,\mathrm{m/s}", r"10 \text{ m/s}"),
        ("5 ft", "5 feet"),
        (r"3\sqrt{2}\text{ cm}", r"3\sqrt{2}"),
        (r"\frac{3}{4}\text{ miles}", "0.75"),
        (r"40\text{ min}", "40"),
        ("10 m", "10"),
        (r"90^\circ", "90"),
        ("5 million", "5000000"),
        (r"2.5 \text{ million dollars}", "2500000"),
        ("50 percent", r"50\%"),
        (r"x = 5 \text{ cm}", "5"),
        ("12 inches^2", "12"),
        ("5cm", "5 cm"),
    ],
    "fractions": [
        ("1/2", "0.5"),
        (r"\frac12", "1/2"),
        (r"\frac{1}2", "0.5"),
        (r"2\frac{1}{2}", "2.5"),
        ("2 1/2", "5/2"),
        (r"-2\frac{1}{2}", "-2.5"),
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        ("½", "0.5"),
        (r"0.\overline{3}", "1/3"),
        (r"0.1\overline{6}", r"\frac{1}{6}"),
        (".5", "1/2"),
        ("-.5", "-1/2"),
        (r"\tfrac{3}{4}", "75\\%"),
    ],
    "sets and intervals": [
        ("0 < x < 1", "(0,1)"),
        ("(0,1)", "0<x<1"),
        (r"x \ge 2", r"[2,\infty)"),
        (r"[2,\infty)", r"x\geq 2"),
        (r"\{1,2,3\}", "3,2,1"),
        (r"(-\infty,1]\cup[2,\infty)", r"[2,\infty)\cup(-\infty,1]"),
        (r"\mathbb{R}", r"(-\infty,\infty)"),
        (r"\{\}", r"\emptyset"),
        (r"\emptyset", r"\text{no solutions}"),
        ("x=1 or x=2", "1,2"),
        (r"x=1, x=2", r"x=2 \text{ or } x=1"),
        ("[0, 0.5]", r"[0,\frac12]"),
        (r"x \in [0,1]", "[0,1]"),
    ],
    "functions": [
        (r"\sqrt{\frac{1}{x}}", r"\frac{1}{\sqrt{x}}"),
        ("x(x+1)", "x^2+x"),
        ("y=2x+1", "2x+1"),
        ("2ab", "2ba"),
        ("sin(x)", r"\sin x"),
        ("sqrt(3)/2", r"\frac{\sqrt{3}}{2}"),
        ("arctan(2)", r"\arctan 2"),
        (r"\frac{m}{M}", "m/M"),
        ("f'(x)", "f'(x)"),
        (r"\log(x)", r"\log x"),
        ("4:6:8", "2:3:4"),
    ],
    "options": [(r"\text{(B)}", "B"), ("(B) 12", "12"), (r"\text{(B) } 12", "B"), ("b", "B")],
}
WRONG = {
    "read in part": [
        ("n", r"1, 2, \ldots, n"),
        ("2", r"1, 2, \ldots, n"),
        (r"1, 2, \ldots", "1, 2"),
        ("2", "2 hours 30 minutes"),
        ("30", "2 hours 30 minutes"),
        ("2 hours", "2 hours 30 minutes"),
        ("3", r"n \equiv 3 \pmod 7"),
        ("7", r"n \equiv 3 \pmod 7"),
        (r"n \equiv 4 \pmod 7", r"n \equiv 3 \pmod 7"),
        ("1", "k=1 if n is odd, 2 otherwise"),
        ("2", "k=1 if n is odd, 2 otherwise"),
        (r"\begin{cases}1 & x>0\\3 & x<0\end{cases}", r"\begin{cases}1 & x>0\\2 & x<0\end{cases}"),
        ("2", r"\begin{cases}1 & x>0\\2 & x<0\end{cases}"),
        ("n", r"n \text{ odd}"),
        ("20", r"\text{June 20}"),
        ("7", "3 4"),
        ("3", r"\{x : x > 3\}"),
        ("0.36", "1.2.3"),
        ("fx", "f'(x)"),
        ("odd", "dod"),
    ],
    "constants": [
        ("5", "5e"),
        ("5", r"5\mathrm{e}"),
        ("2", r"2\mathrm{i}"),
        ("i", "-1"),
        ("e^2", "e^3"),
        (r"1+\mathrm{i}", "1"),
    ],
    "bases": [
        ("12", "12_7"),
        ("9", "12_7"),
        ("12_8", "12_7"),
        ("21_7", "12_7"),
        ("12_7", "12"),
        ("12_7", "9"),
        ("84", "12_7"),
    ],
    "exact numbers": [
        (r"\frac{1}{52!}", r"\frac{1}{51!}"),
        ("2^{-60}", "2^{-61}"),
        ("1e-40", "1e-41"),
        ("0", "1e-40"),
        ("e^{-100}", "0"),
        (r"(\frac{1}{52!}, 2)", r"(\frac{1}{51!}, 2)"),
        (r"x=\frac{1}{52!}", r"x=\frac{1}{51!}"),
        (r"[0,\frac{1}{52!}]", r"[0,\frac{1}{51!}]"),
        (r"\{\frac{1}{52!},1\}", r"\{\frac{1}{51!},1\}"),
        (r"\frac{1}{e^{100}}", r"\frac{1}{e^{101}}"),
        ("10^{60}+1", "10^{60}"),
        ("3.83e35+1", "3.83e35"),
        (r"\sqrt{2}+10^{-20}", r"\sqrt{2}"),
        ("1830495.0", "1830494"),
        ("3000001.0", "3e6"),
        ("0.5000001", "1/2"),
    ],
    "commas": [
        ("1,234", "1.234"),
        ("1,234", "1235"),
        ("12,3", "123"),
        ("1,2", "1.2"),
        ("1 234 567", "1234568"),
    ],
    "units": [
        ("10 m", "10 km"),
        (r"10\text{ s}", r"10\text{ h}"),
        ("5 x", "5"),
        ("5", "5x"),
        ("3 n", "3"),
        ("2", "2m"),
        ("3", "3c"),
        ("5 hundred", "5"),
        ("12 or 13", "12"),
        ("5 to 6", "5"),
        (r"10\text{ m}^2", r"10 \text{ m}"),
        ("7 mod 9", "7"),
        (r"5\text{ or more}", "5"),
        ("5 less", "5"),
    ],
    "fractions": [
        ("1/3", "0.33"),
        ("1/2", "2"),
        (r"\frac{1}{23}", r"\frac{12}{3}"),
        ("2 1/2", "1"),
        (r"0.\overline{3}", "0.3"),
        (r"0.\overline{6}", "0.6"),
        (r"2\frac{1}{2}", "1"),
    ],
    "sets and intervals": [
        ("(0,1)", "[0,1]"),
        ("x > 2", r"[2,\infty)"),
        ("0<x<1", "(0,2)"),
        ("1,2", "1,2,3"),
        (r"\{1\}", r"\{2\}"),
        ("(1,2)", "(2,1)"),
        ("x<1", "x>1"),
        (r"\emptyset", "0"),
        ("[1,2)", "(1,2]"),
        (r"\infty", r"-\infty"),
        ("x=1", "x=1,x=2"),
    ],
    "functions": [
        ("x", r"\sqrt{x^2}"),
        ("x", "|x|"),
        ("x^2", "x^3"),
        ("x+1", "x"),
        ("1", r"\frac{m}{M}"),
        ("y=2x+1", "y=2x"),
        (r"\sin x", r"\cos x"),
        ("2:3:5", "2:3:4"),
        (r"\frac16", "1:2:3"),
        (r"\ln x", r"\log_2 x"),
        ("ab", "a+b"),
    ],
    "options": [("(C) 12", "B"), ("(B) 12", "13"), ("A", "B"), ("B", "12")],
}


def is_right(given: str, gold: str) -> bool:
    verdict = verify_math(Answer(f"\\boxed{{{given}}}", gold), SETTINGS)
    return verdict.is_correct


@pytest.mark.parametrize("kind", RIGHT)
def test_right_answers_of_a_kind(kind: str) -> None:
    assert [row for row in RIGHT[kind] if not is_right(*row)] == []


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answers_of_a_kind(kind: str) -> None:
    assert [row for row in WRONG[kind] if is_right(*row)] == []


def spellings(number: Fraction) -> list[str]:
    """Ways to write a number that are all read as it."""
    n, d = number.numerator, number.denominator
    made = [
        f"{n}/{d}",
        f"\\frac{{{n}}}{{{d}}}",
        f"\\dfrac{{{2 * n}}}{{{2 * d}}}",
        f"x = {n}/{d}",
        f"${n}/{d}$",
    ]
    if d == 1:
        made += [
            str(n),
            f"{n:,}",
            f"{n:,}".replace(",", "{,}"),
            f"{n}.0",
            f"{n}\\text{{ cm}}",
            f"{n} apples",
            f"{n:.15e}",
        ]
        made += [f"{n:,}".replace(",", "\\,"), f"+{n}" if n > 0 else str(n), f"\\text{{{n}}}"]
    elif not 10**9 % d:
        made.append(f"{float(number):.9f}")
    return made


@pytest.mark.parametrize("seed", range(8))
def test_every_spelling_of_a_number_is_that_number_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(6):
        number = Fraction(rng.randint(-(10**7), 10**7), rng.choice((1, 1, 2, 8, 3, 125)))
        other = number + rng.choice((100, Fraction(203, 2), -number * 2 or 1))
        for written in spellings(number):
            assert is_right(written, str(number)), (written, number)
            assert not is_right(written, str(other)), (written, other)


@pytest.mark.parametrize("seed", range(6))
def test_bases_are_digits_and_base(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        base = rng.randint(2, 9)
        digits = "1" + "".join(str(rng.randrange(base)) for _ in range(rng.randint(1, 7)))
        gold = f"{digits}_{base}"
        assert is_right(f"{digits}_{{{base}}}", gold)
        wrong = (digits, str(int(digits, base)), f"{digits}_{base + 1}", f"{digits}0_{base}")
        assert not any(is_right(text, gold) for text in wrong)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.prove) for seed in range(2, 6))]
)
def test_intervals_are_their_ends(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(5):
        low = rng.randint(-50, 50)
        high = low + rng.randint(1, 50)
        left, right = rng.choice("(["), rng.choice(")]")
        gold = f"{left}{low},{high}{right}"
        signs = {"(": "<", "[": r"\le", ")": "<", "]": r"\le"}
        assert is_right(f"{low} {signs[left]} x {signs[right]} {high}", gold)
        assert is_right(f"\\left{left}{low}.0, \\frac{{{2 * high}}}{{2}}\\right{right}", gold)
        other = {"(": "[", "[": "(", ")": "]", "]": ")"}
        for wrong in (
            f"{other[left]}{low},{high}{right}",
            f"{left}{low},{high}{other[right]}",
            f"{left}{low},{high + 1}{right}",
            f"{left}{low - 1},{high}{right}",
        ):
            assert not is_right(wrong, gold)
