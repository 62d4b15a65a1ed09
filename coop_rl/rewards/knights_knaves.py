r"""The verifier `knights_knaves`: everybody's role, as in Logic-RL (arXiv 2502.14768).

Gold: "(1) Amelia is a knight\n(2) Penelope is a knave". Read is what stands in the last <answer> or
box, else what follows the last "answer" or "conclusion"; there every person must have one role,
and the right one.
"""

import re

from coop_rl.rewards.final_answer import find_final_answer, outside_thinking
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

ROLE = re.compile(
    r"\b([A-Z][a-z]+)\b[\s*:]*(?:(?:is|as|=|-|\u2192|must be|:)[\s*]*)?(?:an? )?[\s*]*"
    r"(?:textbf\{|text\{)?(knight|knave)s?\b",
    re.IGNORECASE,
)
CUE = re.compile(r"\b(?:final answer|answer|conclusion|therefore|solution)\b", re.IGNORECASE)
TAIL_CHARACTERS = 4000


def roles_in(text: str) -> dict[str, str] | None:
    """Return name -> knight or knave, lower-case; None where somebody is called both."""
    roles: dict[str, str] = {}
    for name, role in ROLE.findall(text):
        if roles.setdefault(name.lower(), role.lower()) != role.lower():
            return None
    return roles


def verify_knights_knaves(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare everybody's role; who is missing, or called both, makes it wrong."""
    given_text, has_format = _conclusion(answer.whole_text)
    gold, given = roles_in(answer.gold) or {}, roles_in(given_text) or {}
    named = {name: given[name] for name in gold if name in given}
    is_correct = bool(gold) and named == gold
    normal = ", ".join(f"{name} {role}" for name, role in sorted(named.items()))
    return Reward(float(is_correct), is_correct, answer=normal, has_format=has_format)


def render_knights_knaves(gold: str, _settings: VerifierSettings) -> str:
    """Return the roles between answer tags."""
    return f"<answer>{gold}</answer>"


def _conclusion(text: str) -> tuple[str, bool]:
    """Return the part that states the result, and whether it was marked."""
    final = find_final_answer(text)
    if final is not None and final.has_format:
        return final.text, True
    tail = outside_thinking(text)[-TAIL_CHARACTERS:]
    cues = list(CUE.finditer(tail))
    return tail[cues[-1].end() :] if cues else tail, False


KNIGHTS_KNAVES_VERIFIER = Verifier(
    verify_knights_knaves,
    render_knights_knaves,
    canary_gold="(1) Amelia is a knight\n(2) Penelope is a knave",
)
