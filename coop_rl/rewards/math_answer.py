r"""The verifier `math`: equality of mathematical expressions, by math-verify.

    response --final_answer--> text --math_text--> Written --math_bombs--> math-verify --> sympy
    gold (or each of `details` "golds") ---------^                              math_equal: same?

An answer that is not read as a whole equals the same text only. math-verify's own time limits are
signals, which work on a main thread only (off it they raise), so they are off here and the pool's
killed process is the limit.

`Answer.details` may hold JSON: `golds`, a list of right answers to use instead of the gold;
`tolerance`, the largest absolute difference of numbers that still counts as equal.
"""

import ast
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from coop_rl.rewards.final_answer import find_final_answer
from coop_rl.rewards.math_bombs import MOST_CHARACTERS, is_bomb
from coop_rl.rewards.math_equal import same
from coop_rl.rewards.math_text import (
    COMMAND,
    LETTER_UNIT,
    UNITS,
    Written,
    in_base,
    is_mathematics,
    plain,
    read,
)
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

OPERATOR = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|bigcup|bigcap)(?![a-z])")
INTEGER = re.compile(r"-?\d{1,99}")
INDEXED_E = re.compile(r"(?<![A-Za-z\\])E(?=\s*_)")
"""A variable; latex2sympy knows E as the constant alone."""
CLOCK = re.compile(r"^\d{1,2}:\d{2}(?::\d{2})?")
CHAIN = re.compile(r"(?<![\\<>!])=")
LIST = re.compile(r"^\s*\[\s*(?:'[^']*'|\"[^\"]*\")(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"))*\s*\]\s*$")
"""A list of texts as Python or JSON writes it."""
LAKHS = re.compile(r"^[-+]?\d{1,2}(?:,\d{2})+,\d{3}$")
"""Commas as in India, 1,00,000; also a list, so it is read as a number only if that is right."""


def verify_math(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare the response's final answer with the gold answers."""
    final = find_final_answer(answer.whole_text)
    # The last number of a response that was cut off is no answer.
    if final is None or (answer.is_truncated and not final.has_format):
        return Reward(0.0, False, has_format=False)
    given = read(final.text)
    golds, tolerance = _golds(answer.gold, answer.details)
    is_correct = any(_is_equal(gold, given, tolerance) for gold in golds)
    normal = normal_form(given.text)
    return Reward(float(is_correct), is_correct, answer=normal, has_format=final.has_format)


def render_math(gold: str, _settings: VerifierSettings) -> str:
    """Return the gold answer in a box."""
    return f"The answer is \\boxed{{{gold_text(gold)}}}."


def normal_form(text: str) -> str:
    """Return one spelling for equal answers, as far as sympy's automatic forms reach."""
    value = None if not text or OPERATOR.search(text) else parse_answer(text)
    if value is None:  # an unevaluated sum would take its time
        return text[:MOST_CHARACTERS]
    try:
        if value.is_number and not value.is_Integer:
            value = value.evalf(12)
        return str(value)[:MOST_CHARACTERS]
    except Exception:  # sympy raises anything on odd expressions, and the text is the model's
        return text[:MOST_CHARACTERS]


def gold_text(gold: str) -> str:
    """Return the answer that a gold column gives, which may be a solution with a box or ####."""
    final = find_final_answer(gold)
    if final is not None and final.has_format:
        return final.text
    if LIST.match(gold):
        return ", ".join(ast.literal_eval(gold.strip()))
    return gold


@lru_cache(maxsize=8192)
def parse_answer(text: str, fold_case: bool = True) -> Any:
    """Return latex2sympy's reading of all of a normalised answer; None for none, and for bombs."""
    if not text or is_bomb(text) or not is_mathematics(text):
        return None
    if INTEGER.fullmatch(text):
        from sympy import Integer

        return Integer(text)
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify.grader import should_treat_as_complex
    from sympy import Basic, MatrixBase

    spelling = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
    conversion = ConversionConfig(lowercase_symbols=fold_case)
    text = INDEXED_E.sub(r"\\mathit{E}", text)
    # Of a chain a = b = c the last part, where it is not read as one relation.
    parts = CHAIN.split(text)
    for part in (text, parts[-1]) if len(parts) > 2 and not set(",;") & set(text) else (text,):
        try:
            whole = normalize_latex(part, spelling)
            is_real = not should_treat_as_complex(whole)
            value = latex2sympy(
                whole, is_real=is_real, normalization_config=None, conversion_config=conversion
            )
        except Exception:  # as above
            continue
        return value if isinstance(value, Basic | MatrixBase) else None
    return None


def _is_equal(gold: Written, given: Written, tolerance: float | None) -> bool:
    gold, given = _lettered(gold, given.unit), _lettered(given, gold.unit)
    if plain(gold.text) == plain(given.text):
        return gold.unit == given.unit or not (gold.unit and given.unit)
    if given.label and gold.text.strip("()").upper() == given.label:
        return True
    if gold.unit and given.unit and gold.unit != given.unit:
        return False
    if CLOCK.match(gold.text) or CLOCK.match(given.text):  # no quotient: 6:00 is not 6 / 0
        return False
    # An unevaluated sum is no answer.
    if OPERATOR.search(given.text) and not OPERATOR.search(gold.text):
        return False
    fold_case = not _has_both_cases(gold.text + " " + given.text)
    texts = [given.text]
    if LAKHS.match(given.text):
        texts.append(given.text.replace(",", ""))
    lettered = LETTER_UNIT.match(given.text)
    if lettered and not gold.unit:
        texts.append(lettered.group(1))
    expected = _value(gold.text, fold_case)
    if expected is None:
        return False
    for text in texts:
        found = _value(text, fold_case)
        try:
            if found is not None and same(expected, found, tolerance):
                return True
        except Exception:  # as above
            continue
    return False


def _lettered(answer: Written, unit: str) -> Written:
    """Return an answer without a last letter that is the unit of the other: 10 m, 10 meters."""
    found = LETTER_UNIT.match(answer.text) if unit and not answer.unit else None
    if found is None or UNITS[found.group(2).lower()] != unit:
        return answer
    return replace(answer, text=found.group(1), unit=unit)


def _value(text: str, fold_case: bool) -> Any:
    """Return what an answer is, in base ten only."""
    based = in_base(text)
    if based is not None and based[1] == 10:
        return parse_answer(based[0])
    return parse_answer(text, fold_case)


def _has_both_cases(text: str) -> bool:
    """Whether a variable's letter is written large and small, as in m/M."""
    letters = set(re.findall(r"[A-Za-z]", COMMAND.sub(" ", text)))
    return any(letter.swapcase() in letters for letter in letters)


@lru_cache(maxsize=1)
def _be_quiet() -> None:
    """Keep math-verify from warning at every call that its time limits are off."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


@lru_cache(maxsize=4096)
def _golds(gold: str, details: str) -> tuple[Sequence[Written], float | None]:
    """Return the right answers and the tolerance."""
    _be_quiet()
    given = json.loads(details) if details else {}
    golds = given.get("golds") or gold
    golds = golds if isinstance(golds, list) else [golds]
    tolerance = given.get("tolerance")
    written = tuple(read(gold_text(str(text))) for text in golds)
    return written, None if tolerance in (None, "") else float(tolerance)


MATH_VERIFIER = Verifier(
    verify_math, render_math, modules=("math_verify", "latex2sympy2_extended", "sympy")
)
