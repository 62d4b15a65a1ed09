r"""Where in a response the final answer stands; the verifiers `math`, `choice` and others call it.

    response -> outside <think>...</think>, inside the last <answer> -> the first of these there is:
        the last \boxed{...}                      has the form asked for
        what follows the last ####                has the form asked for
        what follows "the answer is" or the like  found, but not in that form
        the last formula or number                the same

A thought that never closed holds no answer, and a last box that is empty or never closed is none.
Every repetition in the patterns is bounded, so no text takes long.
"""

import re
from dataclasses import dataclass

THINK, END_THINK = "<think>", "</think>"
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed\s+([^\s${]+)|\\boxed([-+.\d][^\s${]*)")
BETWEEN_BOXES = re.compile(r"[\s$.]*(?:,|;|and|or|,\s*and|,\s*or|\\text\{\s*(?:and|or)\s*\})[\s$]*")
"""What joins boxes to one answer of several parts."""
MOST_BOXES, MOST_BETWEEN = 60, 40
MOST_CHARACTERS = 2000
"""Final answers are shorter; of a longer one nothing is read."""
TAIL_CHARACTERS = 20_000
"""Unmarked answers are searched for in so much of a response's end."""
CUES = ("answer is", "answer:", "answer to the question is")
FORMULA = re.compile(r"\$([^$]{1,400})\$|\\\(([^\\]{1,400})\\\)|\\\[([^\]]{1,400})\\\]")
NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?\$?\d[\d,]{0,60}(?:\.\d{1,60})?(?:[eE][-+]?\d{1,4})?(?:/\d{1,30})?%?"
)


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """What a response gives as its answer."""

    text: str
    """The answer as written, without the box."""
    has_format: bool
    """Whether it stood in a box, after #### or in <answer>."""


def find_final_answer(response: str) -> FinalAnswer | None:
    """Return the final answer of a response; None where there is none."""
    said = outside_thinking(response)
    text = _tagged(said) or said
    boxed = last_boxed(text)
    if boxed is not None:
        return FinalAnswer(boxed, True) if boxed else None
    if BOX.search(text):  # a box that never closes: nothing else was meant as the answer
        return None
    _, marker, marked = text.rpartition("####")
    if marker:
        line = marked.strip().split("\n", 1)[0].strip()
        return FinalAnswer(line, True) if line and _is_short(line) else None
    tagged = _tagged(said)
    if tagged is not None:
        return FinalAnswer(tagged, True) if tagged and _is_short(tagged) else None
    return _unmarked(text[-TAIL_CHARACTERS:])


def outside_thinking(response: str) -> str:
    """Return what follows the reasoning, without a thought that never closed."""
    _, tag, after = response.rpartition(END_THINK)
    return (after if tag else response).partition(THINK)[0]


def last_boxed(text: str) -> str | None:
    r"""Return what stands in the last `\boxed{...}`; None without one, or where it never closes.

    Boxes joined by a comma, `and` or `or` are one answer: `\boxed{2} and \boxed{3}` is 2, 3.
    """
    parts: list[str] = []
    begin = len(text)
    for match in reversed(list(BOX.finditer(text))):
        bare = match.group(1) or match.group(2)
        inside = bare or _until_closed(text, match.end())
        if inside is None:
            break
        end = match.end() if bare else match.end() + len(inside) + 1
        is_around = bool(parts) and end > begin
        if parts and not is_around and not BETWEEN_BOXES.fullmatch(text[end:begin][:MOST_BETWEEN]):
            break
        begin = match.start()
        inside = inside.strip()
        if not is_around and inside not in parts:
            parts.insert(0, inside)
        if not inside or len(parts) == MOST_BOXES:
            break
    return ", ".join(parts) if parts else None


def _until_closed(text: str, start: int) -> str | None:
    """Return the text from `start` to its closing brace; None where that is missing or far."""
    depth, is_escaped = 1, False
    for position in range(start, min(len(text), start + MOST_CHARACTERS + 1)):
        character = text[position]
        if is_escaped or character == "\\":
            is_escaped = not is_escaped
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start:position]
    return None


def _tagged(text: str) -> str | None:
    """Return what stands between the last <answer> and its end; None without both."""
    before, end, _ = text.rpartition("</answer>")
    _, start, inside = before.rpartition("<answer>")
    return inside.strip() if end and start else None


def _unmarked(text: str) -> FinalAnswer | None:
    lower = text.lower()
    position = max(lower.rfind(cue) + len(cue) if cue in lower else -1 for cue in CUES)
    tail = text[position:] if position >= 0 else ""
    formulas = [next(filter(None, found), "") for found in FORMULA.findall(tail or text)]
    if tail and formulas:
        return FinalAnswer(formulas[0].strip(), False)
    sentence = re.split(r"\.\s|\.$|\n", tail.strip(), maxsplit=1)[0].strip(" *:")
    if sentence and len(sentence) <= 100:
        return FinalAnswer(sentence, False)
    numbers = [(match.start(), match.group()) for match in NUMBER.finditer(text)]
    last_formula = max((m.start() for m in FORMULA.finditer(text)), default=-1)
    if formulas and (not numbers or last_formula + len(formulas[-1]) + 2 >= numbers[-1][0]):
        return FinalAnswer(formulas[-1].strip(), False)
    return FinalAnswer(numbers[-1][1], False) if numbers else None


def _is_short(text: str) -> bool:
    return len(text) <= MOST_CHARACTERS
