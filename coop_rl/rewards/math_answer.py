r"""The verifier `math`: equality of mathematical expressions, by math-verify.

    response --final_answer--> text --normalise--> pre-filter --math-verify--> sympy --> equal?
    gold (or each of `details` "golds") ---------^

math-verify's own time limits are signals, which work on a main thread only (off it they raise), so
they are off here and the pool's killed process is the limit. The pre-filter turns away power
towers and the like, which would only burn that limit.

`Answer.details` may hold JSON: `golds`, a list of right answers to use instead of the gold;
`tolerance`, the largest absolute difference of numbers that still counts as equal.
"""

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from coop_rl.rewards.final_answer import find_final_answer
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

MOST_CHARACTERS = 400
"""Longest answer that is parsed; the longest gold of the benchmarks has 160."""
MOST_DIGITS = 100
MOST_BRACKET_LEVELS = 12
"""Deepest nesting of brackets."""
MOST_COMMAS = 60
"""Commas of an answer: longer sets and matrices are nobody's answer."""
MOST_FACTORIAL_DIGITS = 4
DIGITS = re.compile(rf"\d{{{MOST_DIGITS + 1}}}")
TOWER = re.compile(r"\^\s*\{[^{}]{0,40}\^\s*\{[^{}]{0,40}\^|\^\s*\{?[\w.]{1,20}\}?\s*\^")
POWER_IN_EXPONENT = re.compile(r"\^\s*\{[^{}]{0,40}?(\d+)\s*\^\s*\{?\s*(\d+)")
MOST_EXPONENT = 10_000
EXPONENT = re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?(\d+)")
SUM_POWER = re.compile(r"[)\]}]\s*(?:\^|\*\*)\s*\{?\s*(\d{3,})")
FACTORIAL = re.compile(r"(\d+)\s*!|!\s*!|[)\]}]\s*![)\]}\s]*!|\^[^!(){}]{0,40}[)\]}]\s*!|!\s*\^")
BINOMIAL = re.compile(r"\\[dt]?binom\s*\{[^}]*\d{6}|\\[dt]?binom\s*\{[^}]*\}\s*\{[^}]*\d{6}")
OPERATOR = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|bigcup|bigcap)(?![a-z])")
E_NOTATION = re.compile(r"(?<![\w\\.])([-+]?\d+(?:\.\d*)?|[-+]?\.\d+)[eE]([-+]?\d{1,4})(?![\w.])")
TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
IDLE_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
"""Space that says nothing. Between two digits or letters it does: \\frac 12 is not \\frac 1 2."""
WRAPPER = re.compile(r"^\\(?:text|textbf|mathbf|mathrm|mbox|boldsymbol|bm)\s*\{([^{}]*)\}$")
POINT = re.compile(r"(?<=\d)\.(?=[/*)\s]|$)")
BRACKETED = re.compile(r"^\(([-+]?\d+)\)$")
NEARLY, EXACTLY = 2e-6, 1e-35
"""Largest relative difference of equal numbers: of a decimal and another, of two decimals."""
CLOCK = re.compile(r"^\d{1,2}:\d{2}(?::\d{2})?")
THIN = re.compile(r"(?<=\d)\\,(?=\d{3}(?!\d))")
SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-z])|\s+")
DECORATION = re.compile(r"\\(?:left|right|displaystyle|bf|mathbf|boldsymbol)(?![a-z])")
SPELLINGS = (
    ("\u2212", "-"), ("\u00d7", r"\times "), ("\u03c0", r"\pi "), ("\u221e", r"\infty "),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\$", ""), ("{,}", ","), ("**", "^"),
    ("np.", "\\"), ("\\!", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\degree", ""), ("\u00b0", ""), ("\\{,\\}", ","),
)  # fmt: skip
UNIT = re.compile(
    r"^([-+]?\$?[\d.,]*\d(?:\s*\\(?:times|cdot)\s*10\s*\^\s*\{?-?\d+\}?)?|[-+]?\\frac\{\d+\}\{\d+\})"
    r"\s*(?:\\(?:text|mathrm|mbox|rm|operatorname)\s*\{[^{}]*\}(?:\s*\^\s*\{?-?\d\}?)?"
    r"|(?:\s[A-Za-z]+|(?<=\d)(?:km|cm|mm|kg|mph|ms|Hz))(?:[ /^0-9A-Za-z.]*))\s*$"
)
MAGNITUDES = re.compile(
    r"hundred|thousand|million|billion|trillion|dozen|\bk\b|pi\b", re.IGNORECASE
)
Parsed = tuple[Any, ...]


def verify_math(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare the response's final answer with the gold answers."""
    final = find_final_answer(answer.text)
    # The last number of a response that was cut off is no answer.
    if final is None or (answer.is_truncated and not final.has_format):
        return Reward(0.0, False, has_format=False)
    given = normalise(final.text)
    golds, tolerance = _golds(answer.gold, answer.details)
    is_correct = any(_is_equal(gold, given, tolerance) for gold in golds)
    normal = normal_form(given)
    return Reward(float(is_correct), is_correct, answer=normal, has_format=final.has_format)


def render_math(gold: str, _settings: VerifierSettings) -> str:
    """Return the gold answer in a box."""
    return f"The answer is \\boxed{{{gold}}}."


def normalise(text: str) -> str:
    """Return an answer without what changes its look only: spacing, units, dollar signs."""
    for old, new in SPELLINGS:
        text = text.replace(old, new)
    text = (
        SPACES.sub(" ", THIN.sub("", DECORATION.sub("", text))).replace("$", "").strip(" .,;:*`\"'")
    )
    while wrapped := WRAPPER.match(text):
        text = wrapped.group(1).strip()
    text = BRACKETED.sub(r"\1", POINT.sub("", E_NOTATION.sub(_to_tex, text)))
    unit = UNIT.match(text)
    if unit and not MAGNITUDES.search(text[unit.end(1) :]):
        text = unit.group(1)
    return text.strip()


def is_bomb(text: str) -> bool:
    """Whether sympy would take too long over an answer, or too much memory."""
    if (
        len(text) > MOST_CHARACTERS
        or text.count(",") > MOST_COMMAS
        or _depth(text) > MOST_BRACKET_LEVELS
    ):
        return True
    return bool(
        DIGITS.search(text)
        or TOWER.search(text)
        or any(len(match.group(1)) > 4 for match in EXPONENT.finditer(text))
        or any(_is_large(*match.groups()) for match in POWER_IN_EXPONENT.finditer(text))
        or SUM_POWER.search(text)
        or BINOMIAL.search(text)
        or any(
            match.group(1) is None or len(match.group(1)) > MOST_FACTORIAL_DIGITS
            for match in FACTORIAL.finditer(text)
        )
    )


def normal_form(text: str) -> str:
    """Return one spelling for equal answers, as far as sympy's automatic forms reach."""
    parsed = () if not text or OPERATOR.search(text) else parse_answer(text)
    if not parsed:  # an unevaluated sum would take its time
        return text[:MOST_CHARACTERS]
    value = parsed[0]
    try:
        if value.is_number and not value.is_Integer:
            value = value.evalf(12)
        return str(value)[:MOST_CHARACTERS]
    except Exception:  # sympy raises anything on odd expressions, and the text is the model's
        return text[:MOST_CHARACTERS]


def _is_equal(gold: str, given: str, tolerance: float | None) -> bool:
    if _plain(gold) == _plain(given):
        return True
    if CLOCK.match(gold) or CLOCK.match(given):  # math-verify reads 6:00 as 6 / 0
        return False
    if OPERATOR.search(given) and not OPERATOR.search(gold):  # an unevaluated sum is no answer
        return False
    parsed_gold, parsed_given = parse_answer(gold), parse_answer(given)
    if not parsed_gold or not parsed_given:
        return False
    are_equal = _are_equal_numbers(parsed_gold[0], parsed_given[0], tolerance)
    if are_equal is not None:
        return are_equal
    from math_verify import verify

    try:
        return bool(verify(list(parsed_gold), list(parsed_given), timeout_seconds=None))
    except Exception:  # as above
        return False


@lru_cache(maxsize=8192)
def parse_answer(text: str) -> Parsed:
    """Return math-verify's reading of a normalised answer; empty for none, and for bombs."""
    if is_bomb(text):
        return ()
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    _be_quiet()
    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    try:
        return tuple(parse(f"\\boxed{{{text}}}", extraction_config=configs, parsing_timeout=None))
    except Exception:  # as above
        return ()


@lru_cache(maxsize=1)
def _be_quiet() -> None:
    """Keep math-verify from warning at every call that its time limits are off."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


@lru_cache(maxsize=4096)
def _golds(gold: str, details: str) -> tuple[Sequence[str], float | None]:
    """Return the normalised right answers and the tolerance."""
    given = json.loads(details) if details else {}
    golds = given.get("golds") or gold
    golds = golds if isinstance(golds, list) else [golds]
    tolerance = given.get("tolerance")
    normal = tuple(normalise(str(text)) for text in golds)
    return normal, None if tolerance in (None, "") else float(tolerance)


def _are_equal_numbers(gold: Any, given: Any, tolerance: float | None) -> bool | None:
    """Compare two real numbers; None where one is none, which is math-verify's business.

    math-verify rounds to six decimals, so it takes all tiny numbers for equal. Here decimals are
    exact among themselves, and a decimal may be any other number's first six digits.
    """
    from sympy import Float, nsimplify

    try:
        if not (gold.is_number and given.is_number and gold.is_real and given.is_real):
            return None
        decimals = [number.has(Float) for number in (gold, given)]
        if tolerance is None and not any(decimals):
            are_plain = gold.is_Rational and given.is_Rational
            return bool(gold == given) if are_plain else None
        exact = [nsimplify(number, rational=True) for number in (gold, given)]
        difference = abs((exact[0] - exact[1]).evalf(30))
        relative = EXACTLY if all(decimals) else NEARLY
        allowed = relative * abs(exact[0].evalf(30)) if tolerance is None else tolerance
        return bool(difference <= allowed)
    except Exception:  # as above
        return None


def _to_tex(match: re.Match[str]) -> str:
    return f"{match.group(1)}\\times 10^{{{int(match.group(2))}}}"


def _plain(text: str) -> str:
    """Return one spelling of what is the same text; braces stay, they tell 1/23 from 12/3."""
    return IDLE_SPACE.sub("", TEXT.sub(r"\1", text)).lower()


def _is_large(base: str, exponent: str) -> bool:
    digits = len(base) * int(exponent) if len(exponent) < 4 else MOST_EXPONENT
    return digits > MOST_DIGITS or int(base) ** int(exponent) > MOST_EXPONENT


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


MATH_VERIFIER = Verifier(verify_math, render_math, modules=("math_verify", "sympy"))
