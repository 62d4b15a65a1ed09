r"""An answer's text in one spelling, and whether all of it is mathematics; `math_answer` calls it.

    "$\text{(C) } 12 \mathrm{~cm}$" --read--> Written(text="12", unit="cm")

Only what changes the look is taken away: spacing, fonts, dollars, an option's label, a unit.
"""

import re
from dataclasses import dataclass
from math import gcd

E_NOTATION = re.compile(r"(?<![\w\\.])([-+]?\d+(?:\.\d*)?|[-+]?\.\d+)[eE]([-+]?\d{1,4})(?![\w.])")
FONT = r"\\(?:text(?:bf|it|rm|sf|normal)?|mathrm|mbox|hbox|operatorname)"
TEXT = re.compile(FONT + r"\s*\{([^{}]*)\}")
IDLE_SPACE = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
"""Space that says nothing. Between two digits or letters it does: \\frac 12 is not \\frac 1 2."""
WRAPPER = re.compile(r"^(?:" + FONT + r"|\\boldsymbol|\\bm)\s*\{([^{}]*)\}$")
POINT = re.compile(r"(?<=\d)\.(?=[/*)\s]|$)")
MIXED = re.compile(r"(?<![\d.,/])(\d{1,9})\s(\d{1,9})\s?/\s?(\d{1,9})(?![\d/])")
AFTER_COMMAND = re.compile(r"(\\[A-Za-z]+)\s+(?![A-Za-z])")
BRACKETED = re.compile(r"^\(([-+]?\d+)\)$")
THIN = re.compile(r"(?<=\d)\\[,;:](?=\d{3}(?!\d))")
GROUPED = re.compile(
    r"(?<![\w.,\s])(?<![\d,]\s)(\d{1,3}(?:[ \u00a0\u202f\u2009]\d{3})+)(?![\d/]|\s\d)"
)
"""Thousands between spaces, `1 000 000`."""
SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-z])|\s+")
DECORATION = re.compile(
    r"\\(?:left|right|[Bb]igg?[lr]?|displaystyle|bf|rm|mathbf|boldsymbol)(?![a-z])"
)
CONSTANT = re.compile(r"\\(?:mathrm|text|mathit|operatorname|rm)\s*\{\s*([ei])\s*\}")
FUNCTION_TEXT = re.compile(
    r"\\(?:operatorname|mathrm|text)\s*\{\s*(sin|cos|tan|cot|sec|csc|log|ln|exp|arc(?:sin|cos|tan)|"
    r"sinh|cosh|tanh|gcd|lcm)\s*\}"
)
BARE_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(sqrt|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|d?frac)"
    r"(?![A-Za-z])"
)
SQRT_BRACKET = re.compile(r"\\sqrt\s*\(([^()]{1,99})\)")
BARE_INFINITY = re.compile(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])", re.IGNORECASE)
REPEATING = re.compile(r"(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\s*\{(\d{1,9})\}")
PREFIX = re.compile(
    r"^(?:the\s+)?(?:final\s+)?answer(?:\s+is|\s*[:=])\s*:?\s*(?=\S)", re.IGNORECASE
)
LABEL = re.compile(r"^\(?([A-Ha-h])\)\s*(?=\S)|^\\text\s*\{\s*\(([A-Ha-h])\)\s*\}\s*(?=\S)")
MODULUS = re.compile(r"\(?\s*\\?[pb]?mod\s*\{?\s*(\d+)\s*\}?\s*\)?")
SUPERSCRIPTS = str.maketrans(
    {
        c: f"^{{{d}}}"
        for d, c in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    }
)
SPELLINGS = (
    ("\u2212", "-"), ("\u2013", "-"), ("\u00d7", r"\times "), ("\u00b7", r"\cdot "),
    ("\u00f7", r"\div "), ("\u03c0", r"\pi "), ("\u221e", r"\infty "), ("\u221a", r"\sqrt "),
    ("\u2264", r"\le "), ("\u2265", r"\ge "), ("\u2260", r"\ne "), ("\u222a", r"\cup "),
    ("\u2229", r"\cap "), ("\u2208", r"\in "), ("\u2205", r"\emptyset "), ("\u2261", r"\equiv "),
    ("\u00b1", r"\pm "), ("\u211d", r"\mathbb{R}"), ("\u00bd", r"\frac{1}{2}"),
    ("\u2026", r"\ldots "),    ("\u00bc", r"\frac{1}{4}"), ("\u00be", r"\frac{3}{4}"),
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("\\$", ""),
    ("{,}", ","), ("**", "^"), ("np.", "\\"), ("\\!", ""), ("\\varnothing", "\\emptyset"),
    ("\\leqslant", "\\le"), ("\\geqslant", "\\ge"), ("\\leq", "\\le"), ("\\geq", "\\ge"),
    ("\\neq", "\\ne"), ("\\lbrace", "\\{"), ("\\rbrace", "\\}"), ("\\dots", "\\ldots"),
    ("\\mathbb R", "\\mathbb{R}"), ("\\infin ", "\\infty "),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\degree", ""), ("\u00b0", ""), ("\\{,\\}", ","),
)  # fmt: skip
UNIT_NAMES = (
    "m meter meters metre metres", "cm centimeter centimeters centimetre centimetres",
    "mm millimeter millimeters", "km kilometer kilometers kilometre kilometres", "nm", "um",
    "in inch inches", "ft foot feet", "yd yard yards", "mi mile miles",
    "g gram grams", "kg kilogram kilograms", "mg milligram milligrams", "lb lbs pound pounds",
    "oz ounce ounces", "ton tons tonne tonnes", "s sec secs second seconds", "ms",
    "min mins minute minutes", "h hr hrs hour hours", "day days", "week weeks", "month months",
    "year years yr yrs", "l liter liters litre litres", "ml milliliter milliliters",
    "gallon gallons gal", "mph", "m/s", "km/h kph", "hz", "khz", "mhz", "n newton newtons",
    "j joule joules", "kj", "w watt watts", "kw", "v volt volts", "a ampere amperes amp amps",
    "k kelvin", "pa pascal pascals", "kpa", "atm", "mol", "ev", "kev", "mev", "cent cents",
    "dollar dollars usd", "euro euros", "degree degrees deg", "radian radians rad", "erg ergs",
)  # fmt: skip
UNITS = {name: names.split()[0] for names in UNIT_NAMES for name in names.split()}
VALUE = (
    r"^((?:[A-Za-z]{1,2}\s*=\s*)?[-+]?\$?(?:\d[\d.,]*|\.\d+)(?<![.,])(?:\s*\\(?:times|cdot)\s*10\s*\^\s*\{?-?\d+\}?)?"
    r"|[-+]?\d*\s?\\frac\s*(?:\d\s*\d|\{\d+\}\s*\{\d+\})|[-+]?\d+\s?/\s?\d+|[-+]?\d+\s\d+/\d+)"
)
TEX_UNIT = re.compile(
    r"^(.*?[\w})\]!])\s*((?:[ /.]|\\cdot|\\times|" + FONT + r"\s*\{[^{}0-9]*\}"
    r"(?:\s*\^\s*(?:\{?\s*-?\d\s*\}?))?)+)$"
)
BARE_UNIT = re.compile(
    VALUE + r"(\s?)([A-Za-z]+(?:[ ./][A-Za-z]+)*)(?:\s?\^\s?\{?(-?\d)\}?|([23]))?\s*$"
)
ATTACHED = frozenset(["km", "cm", "mm", "kg", "mph", "ms", "hz", "ml", "nm", "ft", "lb", "min"])
LETTER_UNIT = re.compile(VALUE + r"\s([mgshlLVANJWK])$")
MOST_CHARACTERS = 400
"""Of longer answers no unit is read."""
PERCENT = re.compile(r"(?<=\d)\s*(?:\\text\s*\{)?\s*(?:percent(?:age)?|pct)\b\s*\}?")
MAGNITUDE = re.compile(
    r"(?<=\d)\s*(\\text\s*\{)?\s*(thousand|million|billion|trillion)(?![A-Za-z])\s*"
)
POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
JOINED = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*"
)
SHORT_FRACTION = re.compile(r"\\frac\s*(\d|\\[A-Za-z]+|\{[^{}]*\})\s*(\d|\\[A-Za-z]+|\{[^{}]*\})")
LETTER_IN_BRACKETS = re.compile(r"\(\s*\\text\s*\{\s*([A-Z])\s*\}\s*\)")
SUBSCRIPT = re.compile(r"_\s*\{\s*(?:\\(?:text|mathrm)\s*\{\s*)?([A-Za-z0-9]{2,20})\s*\}(?:\s*\})?")
NO_UNIT = re.compile(
    r"hundred|thousand|million|billion|trillion|dozen|\b(?:k|pi|e|i|and|or|if|when|for|mod|base|to|"
    r"from|otherwise|percent|over|half|less|more|than|times|plus|minus|squared|cubed|is|are|not|with|"
    r"negative|positive|each)\b",
    re.IGNORECASE,
)
"""Words after a number that change it, or say that more is to come."""
WORD = re.compile(r"[A-Za-z]{4}")
SHORT_WORDS = re.compile(
    r"\b(?:if|is|or|and|odd|mod|no|for|all|the|yes|day|any|not|of|in|on|at|to|by|we|as|am|pm|one|two|"
    r"six|ten|dne|nor|but|max|min)\b",
    re.IGNORECASE,
)
UNREAD = re.compile(
    r"\\[lcvd]?dots|\.\.\.|\\equiv|\\[pb]?mod(?![a-z])|'|\\mid|\\sim|\\text|\\mbox|\\begin\{cases|"
    r"\\(?:if|else)|\d\s*_|\d\.\d*\.|(?<![_\d])\d+\s+\.?\d(?!\d*\s*/)|\\[{].*[:|].*\\[}]|:.*:|\\overline"
)
"""What math-verify reads in part, or as something else: it leaves out dots, primes and bases, takes
two numbers side by side for their sum, and a rule after a colon for a quotient."""
ALLOWED = re.compile(r"[\x00-\x7f\u0370-\u03ff]*")
COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}|\\[A-Za-z]+")
BASE = re.compile(r"^(-?)([0-9A-Za-z]+)_\{?\s*(?:\\text\s*\{\s*)?(?:base\s*)?(\d{1,2})\s*\}?\}?$")
BASE_NAMES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
BASES = {name: str(base) for base, name in enumerate(BASE_NAMES, 2)}
RATIO = re.compile(r"^\d+(?::\d+){2,}$")
SAME_TEXTS = {
    "nosolution": r"\emptyset", "nosolutions": r"\emptyset", "norealsolution": r"\emptyset",
    "norealsolutions": r"\emptyset", "emptyset": r"\emptyset", r"\{\}": r"\emptyset",
    "dne": "doesnotexist", "doesnotexist": "doesnotexist", "undefined": "doesnotexist",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """An answer in one spelling."""

    text: str
    """Without its unit and label."""
    unit: str = ""
    """The first of its names, with its exponent; empty: it has none, or an unknown one."""
    label: str = ""
    """Letter of the option it stands behind, upper-case."""


def read(text: str) -> Written:
    """Return an answer in one spelling."""
    text = _unwrapped(_spelled(text))
    label = LABEL.match(text)
    letter = (label.group(1) or label.group(2)).upper() if label else ""
    if label:
        text = _unwrapped(text[label.end() :])
    value, unit = _split_unit(text)
    return Written(value.strip(), unit, letter)


def normalise(text: str) -> str:
    """Return an answer without what changes its look only: spacing, units, dollar signs."""
    return read(text).text


def plain(text: str) -> str:
    """Return one spelling of what is the same text; braces stay, they tell 1/23 from 12/3."""
    text = AFTER_COMMAND.sub(r"\1", TEXT.sub(r"\1", MODULUS.sub(r"(mod\1)", text)))
    text = IDLE_SPACE.sub("", " ".join(text.split())).lower()
    based = in_base(text)
    if based is not None:
        return f"{based[0]}_{based[1]}"
    if RATIO.match(text):
        parts = [int(part) for part in text.split(":")]
        return ":".join(str(part // (gcd(*parts) or 1)) for part in parts)
    return SAME_TEXTS.get(re.sub(r"\s", "", text), text)


def in_base(text: str) -> tuple[str, int] | None:
    r"""Return the digits and base of 12_7, 12_{7} or 12_{\text{seven}}; None for others."""
    match = BASE.match(re.sub(r"(?<=[_{ ])(?:base)?([a-z]+)(?=[\s}]|$)", _base_number, text))
    if match is None:
        return None
    sign, digits, base = match.group(1), match.group(2).lstrip("0") or "0", int(match.group(3))
    if base < 2 or any(int(digit, 36) >= base for digit in digits):
        return None
    return sign + digits, base


def is_mathematics(text: str) -> bool:
    """Whether all of a normalised answer is mathematics, so that math-verify reads all of it."""
    if UNREAD.search(SUBSCRIPT.sub(" ", text)) or not ALLOWED.fullmatch(text):
        return False
    letters = SUBSCRIPT.sub(" ", COMMAND.sub(" ", text))
    return not (WORD.search(letters) or SHORT_WORDS.search(letters))


def _base_number(match: re.Match[str]) -> str:
    return BASES.get(match.group(1), match.group())


def _spelled(text: str) -> str:
    text = "".join(_ascii(character) for character in text.translate(SUPERSCRIPTS))
    for old, new in SPELLINGS:
        text = text.replace(old, new)
    text = FUNCTION_TEXT.sub(r"\\\1 ", THIN.sub("", DECORATION.sub("", text)))
    text = SPACES.sub(" ", CONSTANT.sub(r" \1 ", text)).replace("$", "").rstrip("\\ ")
    text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text)
    text = JOINED.sub(", ", PERCENT.sub(r"\\%", MAGNITUDE.sub(_magnitude, text)))
    text = SHORT_FRACTION.sub(_fraction, text).strip(' ,;:*`"')
    text = re.sub(r"^\.(?!\d)\s*|[ .,;:*`\"]+$", "", text)
    text = re.sub(r"^'(.*)'$", r"\1", PREFIX.sub("", text))
    text = re.sub(r"(?<=[A-Za-z])'", r"^{\\prime}", text)
    return re.sub(r"^\\approx\s*", "", LETTER_IN_BRACKETS.sub(r"(\1)", text))


def _magnitude(match: re.Match[str]) -> str:
    return f" \\times 10^{{{POWERS[match.group(2)]}}} {match.group(1) or ''}"


def _fraction(match: re.Match[str]) -> str:
    above, below = (part.strip("{}") for part in match.groups())
    return f"\\frac{{{above}}}{{{below}}}"


def _ascii(character: str) -> str:
    """Return the ASCII form of full-width characters and of any script's digits."""
    if character.isascii():
        return character
    if character.isdecimal():
        return str(int(character))
    return chr(ord(character) - 0xFEE0) if "\uff01" <= character <= "\uff5e" else character


def _unwrapped(text: str) -> str:
    while wrapped := WRAPPER.match(text):
        text = wrapped.group(1).strip()
    text = BRACKETED.sub(r"\1", POINT.sub("", E_NOTATION.sub(_to_tex, text)))
    text = MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = GROUPED.sub(
        lambda found: re.sub(r"\s", "", found.group()), REPEATING.sub(_repeating, text)
    )
    return text.strip()


def _split_unit(text: str) -> tuple[str, str]:
    """Return the text without its unit, and the unit where it is a known one."""
    found = TEX_UNIT.match(text) if len(text) <= MOST_CHARACTERS else None
    if found and not NO_UNIT.search(found.group(2)):
        letters, unit = COMMAND.sub(" ", found.group(1)), _unit(found.group(2))
        is_number = re.search(r"\d", letters) and not re.search(r"[A-Za-z]", letters)
        if is_number or (unit and not TEXT.search(found.group(1))):
            return _split_unit(found.group(1))[0], unit
    found = BARE_UNIT.match(text)
    if found and not NO_UNIT.search(found.group(3)):
        words = found.group(3)
        is_known = words.lower() in (UNITS if found.group(2) else ATTACHED) and len(words) > 1
        # A letter or two may be variables: 5 x, 2 ab.
        if is_known or (found.group(2) and max(map(len, re.findall("[A-Za-z]+", words))) > 3):
            power = found.group(4) or found.group(5) or ""
            return found.group(1), _unit(words) + power
    text = SQRT_BRACKET.sub(r"\\sqrt{\1}", BARE_FUNCTION.sub(r"\\\1 ", text))
    return BARE_INFINITY.sub(r"\\infty ", text), ""


def _unit(text: str) -> str:
    """Return the unit's one name; empty where one of its words is no unit we know."""
    compact = re.sub(r"[\s{}]", "", TEXT.sub(r"\1", text)).lower().strip(".")
    words = re.findall(r"[a-z]+", compact)
    if not words or any(word not in UNITS for word in words):
        return ""
    return re.sub(r"[a-z]+", lambda found: UNITS[found.group()], compact)


def _to_tex(match: re.Match[str]) -> str:
    return f"{match.group(1)}\\times 10^{{{int(match.group(2))}}}"


def _repeating(match: re.Match[str]) -> str:
    r"""Return 0.1\overline{6} as a fraction."""
    whole, before, again = match.groups()
    shift, nines = 10 ** len(before), 10 ** len(again) - 1
    numerator = (int(whole or 0) * shift + int(before or 0)) * nines + int(again)
    return f"\\frac{{{numerator}}}{{{shift * nines}}}"
