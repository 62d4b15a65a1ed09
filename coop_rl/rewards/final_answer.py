r"""Where in a response the final answer stands; the verifiers `math`, `choice` and others call it.

    response -> after `</think>`, inside the last <answer> -> the first of these that there is:
        the last \boxed{...}                      has the form asked for
        what follows the last ####                has the form asked for
        what follows "the answer is" or the like  found, but not in that form
        the last formula or number                the same

Every repetition in the patterns is bounded, so no text takes long.
"""

import re
from dataclasses import dataclass

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed\s+([^\s${]+)")
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
    text = _conclusion(response)
    boxed = last_boxed(text)
    if boxed is not None:
        return FinalAnswer(boxed, True)
    if BOX.search(text):  # a box that never closes: nothing else was meant as the answer
        return None
    _, marker, marked = text.rpartition("####")
    if marker:
        line = marked.strip().split("\n", 1)[0].strip()
        return FinalAnswer(line, True) if line and _is_short(line) else None
    tagged = _tagged(response)
    if tagged is not None:
        return FinalAnswer(tagged, True) if tagged and _is_short(tagged) else None
    return _unmarked(text[-TAIL_CHARACTERS:])


def last_boxed(text: str) -> str | None:
    r"""Return what stands in the last closed `\boxed{...}`; None without one."""
    for match in reversed(list(BOX.finditer(text))):
        if match.group(1) is not None:
            return match.group(1)
        inside = _until_closed(text, match.end())
        if inside is not None:
            return inside.strip()
    return None


def _until_closed(text: str, start: int) -> str | None:
    """Return the text from `start` to its closing brace; None where that is missing or far."""
    depth = 1
    for position in range(start, min(len(text), start + MOST_CHARACTERS + 1)):
        character = text[position]
        if character == "{" and text[position - 1] != "\\":
            depth += 1
        elif character == "}" and text[position - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[start:position]
    return None


def _conclusion(response: str) -> str:
    """Return what follows the reasoning; all of a response that marks none."""
    _, tag, after = response.rpartition("</think>")
    text = after if tag else response
    return _tagged(text) or text


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
