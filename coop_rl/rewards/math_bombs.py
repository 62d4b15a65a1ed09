"""Answers that sympy would take too long over, or too much memory: they are turned away unread."""

import re

MOST_CHARACTERS = 400
"""Longest answer that is parsed; the longest gold of the benchmarks has 160."""
MOST_DIGITS = 100
MOST_BRACKET_LEVELS = 12
"""Deepest nesting of brackets."""
MOST_COMMAS = 60
"""Commas of an answer: longer sets and matrices are nobody's answer."""
MOST_FACTORIAL_DIGITS = 4
MOST_EXPONENT = 10_000
DIGITS = re.compile(rf"\d{{{MOST_DIGITS + 1}}}")
TOWER = re.compile(r"\^\s*\{[^{}]{0,40}\^\s*\{[^{}]{0,40}\^|\^\s*\{?[\w.]{1,20}\}?\s*\^")
POWER_IN_EXPONENT = re.compile(r"\^\s*\{[^{}]{0,40}?(\d+)\s*\^\s*\{?\s*(\d+)")
EXPONENT = re.compile(r"\^\s*\{[^{}]{0,40}?(\d+)\s*\^\s*\{?\s*(\d+)")
MOST_EXPONENT = 10_000
EXPONENT = re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?(\d+)")
SUM_POWER = re.compile(r"[)\]}]\s*(?:\^|\*\*)\s*\{?\s*(\d{3,})")
FACTORIAL = re.compile(r"(\d+)\s*!|!\s*!|[)\]}]\s*![)\]}\s]*!|\^[^!(){}]{0,40}[)\]}]\s*!|!\s*\^")
BINOMIAL = re.compile(r"\\[dt]?binom\s*\{[^}]*\d{6}|\\[dt]?binom\s*\{[^}]*\}\s*\{[^}]*\d{6}")


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
