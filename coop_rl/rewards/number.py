r"""The verifier `number`: the last number of the response equals the gold answer as a number.

For models that answer in prose ("The final answer is 7."), where no marker can be asked for. A
number is read whole or not at all: thousands commas, `9{,}500`, `1/2`, `.5`, `1.5e3`, `3 × 10^2`,
`-$12`, `12 cm^2`, `12%` (its percent sign and unit do not count). A gold answer that is no such
number (`10:30`) cannot be right, and is refused with the data.
"""

import re
import unicodedata
from fractions import Fraction

from coop_rl.rewards.final_answer import BOX, find_final_answer, outside_thinking
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

SPELLINGS = (
    ("\u2212", "-"), ("\u2013", "-"), ("\u00d7", "*"), (r"\times", "*"), (r"\cdot", "*"),
    ("{,}", ","), (r"\!", ""), (r"\,", ""), (r"\$", "$"), (r"\%", "%"), ("\u2044", "/"),
    (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"),
)  # fmt: skip
FRACTION = re.compile(r"\\frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
ASIDE = re.compile(r"\([^()\n]{0,200}?[A-Za-z]{2}[^()\n]{0,200}\)")
"""A remark in brackets, "(see step 3)"."""
TOKEN = re.compile(
    r"(sqrt\s?[\[{(]?\s?|[\^_]\s?\{?\s?|(?<=\d)!\s?)?(?<![\w.])(?<!\d,)(?:([-+]?)\s?[$\u20ac\u00a3]\s?)?([-+]?)"
    r"((?>\d(?:[\d,.:/]*\d)?|\.\d+))"
    r"(?:[eE]([-+]?\d{1,3})(?!\w)|\s?\*\s?10\s?(?:\^|\*\*)\s?\{?([-+]?\d{1,3})(?!\d)\}?)?"
    r"(?=(\s?_|\s?\^|\s?\\?(?:pi|sqrt)\b|\u03c0|[a-eijn-rt-z](?![A-Za-z]))?)"
)
"""What a number is, with what makes it another one: a root, a power, a base, pi, a variable."""
EXPONENT_OF_UNIT = re.compile(r"(?<=[a-zA-Z}])\s?\^\s?\{?-?\d\}?|(?<=[a-df-z])[23]\b")
DEGREES = re.compile(r"\s?\^\s?\{?\s?\\circ\s?\}?")
MIXED = re.compile(r"(?<![\d.,/])(\d{1,9})\s(\d{1,9})/(\d{1,9})(?![\d/])")
LEADING_MINUS = re.compile(r"((?:^|is|=|:)\s*)-\s+(?=[\d.$])")
SPACED = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:[\u00a0\u202f\u2009]\d{3})+|(?: \d{3})* (?:000|\d{3} \d{3}))(?!\d)"
)
"""Thousands between spaces; two numbers side by side look the same but for their zeros."""
POWER = re.compile(r"(?<![\w.^])(?<!\*\s)(?<!\*)(\d{1,6})\s?\^\s?\{?(\d{1,2})\}?(?!\d)")
BEFORE_GOLD = re.compile(
    r"(?:\s|the|final|answer|is|[:($\[])*(?:\w{1,30}\s*=)?[\s($]*", re.IGNORECASE
)
AFTER_GOLD = re.compile(r"[\s)\]%$.,]*+[\\{}~\sA-Za-z\u00b0\u2103/.%]*+[\s)%$.,]*+")
"""A unit, with the TeX around it; no star gives back what it took, so no text takes long."""
WESTERN, INDIAN = r"\d{1,3}(?:,\d{3})+", r"\d{1,2}(?:,\d{2})+,\d{3}"
PLAIN = re.compile(rf"(?:{WESTERN}|{INDIAN}|\d+)?(?:\.\d+)?|(?:{WESTERN}|{INDIAN}|\d+)\.?")
EUROPEAN = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+")
MOST_CHARACTERS = 400
"""Longer numbers are nobody's answer, and reading them would take its time."""


def number_in(text: str) -> Fraction | None:
    """Return the last number written in `text`; None without one, or where it has two readings."""
    text = _spelled(text)
    tokens = list(TOKEN.finditer(ASIDE.sub(" ", text))) or list(TOKEN.finditer(text))
    return _value(tokens[-1]) if tokens else None


def verify_number(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare the last number with the gold answer; 7, 7.0 and +7 are equal."""
    final, said = find_final_answer(answer.whole_text), outside_thinking(answer.whole_text)
    if final is None and BOX.search(said):  # one that is empty or never closed
        said = ""
    text = final.text if final and final.has_format else said
    number, wanted = number_in(text), gold_number(answer.gold)
    is_correct = wanted is not None and number == wanted
    given = "" if number is None else str(number)[:MOST_CHARACTERS]
    return Reward(float(is_correct), is_correct, answer=given, has_format=number is not None)


def gold_number(gold: str) -> Fraction | None:
    """Return a gold answer as a number; None where it is more than one, or something else."""
    final = find_final_answer(gold)
    text = final.text if final and final.has_format else gold
    spelled = _spelled(text)
    token = TOKEN.search(spelled)
    if token is None or len(spelled) > MOST_CHARACTERS:
        return None
    before, after = spelled[: token.start()], spelled[token.end() :]
    is_whole = BEFORE_GOLD.fullmatch(before) and AFTER_GOLD.fullmatch(after)
    return _value(token, is_list=False) if is_whole else None


def render_number(gold: str, _settings: VerifierSettings) -> str:
    """Return the gold answer."""
    return gold


def _spelled(text: str) -> str:
    """Return a text with one spelling of digits, signs and fractions, without units' exponents."""
    text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    for old, new in SPELLINGS:
        text = text.replace(old, new)
    text = EXPONENT_OF_UNIT.sub(
        "", DEGREES.sub("", LEADING_MINUS.sub(r"\1-", FRACTION.sub(r"\1\2/\3\4", text)))
    )
    text = SPACED.sub(lambda found: re.sub(r"\s", "", found.group()), text)
    text = POWER.sub(lambda found: str(int(found.group(1)) ** int(found.group(2))), text)
    return MIXED.sub(_unmixed, text)


def _unmixed(found: re.Match[str]) -> str:
    """Return 2 1/2 as 5/2."""
    whole, above, below = map(int, found.groups())
    return f"{whole * below + above}/{below}"


def _value(token: re.Match[str], *, is_list: bool = True) -> Fraction | None:
    prefix, outer, inner, figures, exponent, power, suffix = token.groups()
    value = _fraction(figures)
    if value is None and is_list and "," in figures:  # 1,2,3
        value = _fraction(figures.rpartition(",")[2])
    if value is None or prefix or suffix or (outer and inner):
        return None
    scaled = value * Fraction(10) ** int(exponent or power or 0)
    return -scaled if "-" in (outer, inner) else scaled


def _fraction(figures: str) -> Fraction | None:
    """Return a number or a quotient of two; None for what is neither, as times and dates are."""
    if len(figures) > MOST_CHARACTERS:
        return None
    above, slash, below = figures.partition("/")
    numerator, denominator = _plain(above), _plain(below) if slash else Fraction(1)
    return numerator / denominator if numerator is not None and denominator else None


def _plain(figures: str) -> Fraction | None:
    """Return digits with thousands commas or decimals as a number."""
    if EUROPEAN.fullmatch(figures):
        figures = figures.replace(".", "").replace(",", ".")
    elif not figures or not PLAIN.fullmatch(figures):
        return None
    return Fraction(figures.replace(",", ""))


NUMBER_VERIFIER = Verifier(verify_number, render_number)
