"""The verifier `exact`: the text after the last marker equals the gold answer, both stripped."""

from coop_rl.rewards.verdict import Verdict, Verifier, VerifierSettings


def verify_exact(text: str, gold: str, settings: VerifierSettings) -> Verdict:
    """Compare as strings; a response without the marker is wrong."""
    _, marker, answer = text.rpartition(settings.marker)
    is_correct = bool(marker) and answer.strip() == gold.strip()
    return Verdict(float(is_correct), is_correct)


def render_exact(gold: str, settings: VerifierSettings) -> str:
    """Return the marker and the gold answer."""
    return f"{settings.marker}{gold}"


EXACT = Verifier(verify_exact, render_exact)
