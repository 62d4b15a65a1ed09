"""The verifier `number`: the last number of the response equals the gold answer as a number.

For models that answer in prose ("The final answer is 7."), where no marker can be asked for.
"""

import re
from decimal import Decimal

from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
"""Sign, digits with or without thousands commas, decimals; `3-4` is 3 and 4, a final `2.` is 2."""
MOST_CHARACTERS = 400
"""Longer numbers are nobody's answer, and Decimal would take its time."""


def last_number(text: str) -> Decimal | None:
    """Return the last number written in `text`; None without one, or with an absurdly long one."""
    found = None
    for found in NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if found is None or len(found.group()) > MOST_CHARACTERS:
        return None
    return Decimal(found.group().replace(",", "").replace("\u2212", "-"))


def verify_number(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare the last number of each; 7, 7.0 and +7 are equal."""
    number, wanted = last_number(answer.text), last_number(answer.gold)
    is_correct = wanted is not None and number == wanted
    given = "" if number is None else str(number.normalize())
    return Reward(float(is_correct), is_correct, answer=given, has_format=number is not None)


def render_number(gold: str, _settings: VerifierSettings) -> str:
    """Return the gold answer."""
    return gold


NUMBER_VERIFIER = Verifier(verify_number, render_number)
