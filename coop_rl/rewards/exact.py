"""The verifier `exact`: the text after the last marker equals the gold answer, both stripped."""

from coop_rl.rewards.final_answer import outside_thinking
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward


def verify_exact(answer: Answer, settings: VerifierSettings) -> Reward:
    """Compare as strings; a response without the marker is wrong."""
    _, marker, given = outside_thinking(answer.whole_text).rpartition(settings.marker)
    has_format = bool(marker)
    given = given.strip() if has_format else ""
    is_correct = has_format and given == answer.gold.strip()
    return Reward(float(is_correct), is_correct, answer=given, has_format=has_format)


def render_exact(gold: str, settings: VerifierSettings) -> str:
    """Return the marker and the gold answer."""
    return f"{settings.marker}{gold}"


EXACT = Verifier(verify_exact, render_exact)
