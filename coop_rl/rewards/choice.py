r"""The verifier `choice`: the letter of an option, in the forms models write it.

    response -> its final answer, where that is marked and names an option: `\boxed{\text{(B)}}`
             -> else what follows the last "answer is", "option", "pick", ...: "Answer: **B**"
             -> else a letter alone: all of the response ("b. 4") or its last line

A sentence that names several options is no answer, but those it rejects do not count ("A is wrong,
B is right"); a letter inside prose ("A train ...", "I think") is none.
"""

import re
import unicodedata

from coop_rl.rewards.final_answer import find_final_answer, outside_thinking
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathbf|mathrm|mbox|rm|bf)\s*\{([^{}]*)\}")
OPTION = re.compile(
    r"^(?:option|choice|answer)?[\s:]*[(\[]?\s*([A-Z])\s*(?:[)\].:,;/&]|$|(?=\s(?:and|or)\s))",
    re.IGNORECASE,
)
FURTHER = re.compile(
    r"(?:[\s,;/&]|\band\b|\bor\b)+[(\[]?([A-Z])[)\]]?(?=\s*(?:[,;/&.]|and\b|or\b|$))"
)
"""Another option after the first: "A, B", "(A) and (B)"; not the text of one, "B, a dog"."""
CUE = re.compile(
    r"\b(?:answer|option|choice|antwort|r[ée]ponse|respuesta|risposta|resposta|ответ)\b"
    r"|\b(?:i|we)(?: would| will|'d)? (?:pick|choose|select|go with)\b|答案|答え|選択肢|选项",
    re.IGNORECASE,
)
AFTER_CUE = re.compile(
    r"[\s:*_\"'=$(\[]*(?:(?:is|are|be|seems|seem|to|must|should|would|will|therefore|thus|clearly|"
    r"likely|probably|option|choice|letter|ist|est|es|é|è|是|为|為|は)\b[\s:*_\"'=$(\[]*)*"
)
SENTENCE = re.compile(r"[^\n]*?(?:[.!?](?=\s)|(?=\n)|$)")
REJECTED = re.compile(
    r"\b(?:not|rule out|ruled out|eliminate|exclude|instead of|rather than)\s+"
    r"(?:option |choice )?\(?[A-Z]\)?(?![A-Za-z])|"
    r"(?<![A-Za-z])\(?[A-Z]\)? (?:is|was|are|being) (?:\w+ )?"
    r"(?:wrong|incorrect|false|not|out|impossible|invalid|a (?:common )?distractor)\b"
)
LETTER = re.compile(r"(?<![A-Za-z'\u2019])([A-Z])(?![A-Za-z'\u2019])")
PROSE = re.compile(r"(?:A|I)\s+(?!is\b|or\b|and\b|because\b|since\b|as\b|for\b|but\b)[a-z]")
"""The article A and the pronoun I, before a word that does not follow an option."""
ALONE = re.compile(r"[\s*$(\[]*([A-Za-z])[\s*$).\]:]*")
TAIL_CHARACTERS = 2000


def letter_of(text: str) -> str | None:
    r"""Return the option an answer names: "B", "(b)", "B. 12", "\text{(B)}"; None for others."""
    plain = WRAPPER.sub(r"\1", text).replace("$", "").strip(" *")
    match = OPTION.match(plain)
    if match is None or FURTHER.match(plain, match.end(1)):
        return None
    if FURTHER.match(plain[match.end(1) :].lstrip(" )]")):
        return None
    return match.group(1).upper()


def verify_choice(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Compare letters; a response that names none, or several, is wrong."""
    letter, has_format = _given(answer.whole_text)
    is_correct = letter is not None and letter == letter_of(answer.gold)
    return Reward(float(is_correct), is_correct, answer=letter or "", has_format=has_format)


def render_choice(gold: str, _settings: VerifierSettings) -> str:
    """Return the option in a box."""
    return f"\\boxed{{{gold}}}"


def _given(response: str) -> tuple[str | None, bool]:
    final = find_final_answer(response)
    has_format = final is not None and final.has_format
    if final is not None and has_format:
        letter = letter_of(final.text)
        if letter or LETTER.search(WRAPPER.sub(r"\1", final.text)):
            return letter, True
    text = outside_thinking(response)[-TAIL_CHARACTERS:]
    text = unicodedata.normalize("NFKC", WRAPPER.sub(r"\1", text)).replace("\\", "")
    cues = list(CUE.finditer(text))
    for cue in reversed(cues):
        stated = _stated(text, cue.end())
        if stated is not None:
            return stated or None, has_format
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    options = [line for line in lines if OPTION.match(line.strip("*"))]
    if options and options == lines[-1:]:  # a list of them was only repeated
        return letter_of(options[0]), has_format
    alone = ALONE.fullmatch(lines[-1]) if lines else None
    return (alone.group(1).upper() if alone else None), has_format


def _stated(text: str, start: int) -> str | None:
    """Return the one option named after a cue; "" for several, None where there is no letter."""
    skipped = AFTER_CUE.match(text, start)
    begin = skipped.end() if skipped else start
    sentence = SENTENCE.match(text, begin)
    said = sentence.group() if sentence else ""
    small = re.match(r"([a-z])\s*(?:[).\]:*,]|$)", said)
    if small:
        return small.group(1).upper()
    letters = set(LETTER.findall(PROSE.sub(" ", REJECTED.sub(" ", said))))
    if not letters:
        return "" if REJECTED.search(said) else None
    leading = re.match(
        r"([A-Z])(?:[).\]:*]|$|\s*[\u2014\u2013-]|\s+(?:because|since|as|for)\b)", said
    )
    if leading and leading.group(1) in letters:
        return leading.group(1)
    return letters.pop() if len(letters) == 1 else ""


CHOICE_VERIFIER = Verifier(verify_choice, render_choice, canary_gold="B")
