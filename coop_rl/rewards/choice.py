r"""The verifier `choice`: the letter of an option, in the forms models write it.

`\boxed{B}`, `\boxed{\text{(B)}}`, `#### B`, `<answer>B</answer>`, "the answer is (B)", "**B**"; a
letter inside prose ("A train ...") is no answer.
"""

import re

from coop_rl.rewards.final_answer import find_final_answer
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

WRAPPER = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox)\s*\{([^{}]*)\}")
OPTION = re.compile(
    r"^(?:option|choice|answer)?\s*[(\[]?\s*([A-Z])\s*(?:[)\].:,]|$)", re.IGNORECASE
)
CUE = re.compile(
    r"(?i:answer|option|choice)(?: is|:)?[\s:*$]*(?i:option |choice )?[(\[]?([A-Z])(?![a-zA-Z])"
)
ALONE = re.compile(r"(?:^|\n)[\s*$(]*([A-Z])[\s*$).]*$")
TAIL_CHARACTERS = 2000


def letter_of(text: str) -> str | None:
    """Return the option an answer names: "B", "(b)", "B. 12", "\\text{(B)}"; None for others."""
    plain = WRAPPER.sub(r"\1", text).replace("$", "").strip(" *")
    match = OPTION.match(plain)
    return match.group(1).upper() if match else None


def verify_choice(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare letters; a response that names none is wrong."""
    letter, has_format = _given(answer.text)
    is_correct = letter is not None and letter == letter_of(answer.gold)
    return Reward(float(is_correct), is_correct, answer=letter or "", has_format=has_format)


def render_choice(gold: str, _settings: VerifierSettings) -> str:
    """Return the option in a box."""
    return f"\\boxed{{{gold}}}"


def _given(text: str) -> tuple[str | None, bool]:
    final = find_final_answer(text)
    if final is not None and final.has_format:
        return letter_of(final.text), True
    tail = text[-TAIL_CHARACTERS:].replace("\\", "")
    cues = CUE.findall(tail)
    alone = ALONE.search(tail)
    return cues[-1] if cues else alone.group(1) if alone else None, False


CHOICE_VERIFIER = Verifier(verify_choice, render_choice, canary_gold="B")
