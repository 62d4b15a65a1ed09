"""The verifier `choice`: one clear letter is an answer, several or a word are none."""

import random

import pytest

from coop_rl.rewards.choice import letter_of, verify_choice
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")

READ = [
    (r"\boxed{C}", "C"),
    (r"\boxed{(C)}", "C"),
    (r"\boxed{\text{C}}", "C"),
    (r"\boxed{\mathrm{(C)}}", "C"),
    (r"\boxed{c}", "C"),
    (r"\boxed{\textbf{C}}", "C"),
    (r"\boxed{C. 12}", "C"),
    (r"\boxed{C: a dog}", "C"),
    (r"\boxed{C) A train}", "C"),
    (r"\boxed{\text{Option C}}", "C"),
    ("#### C", "C"),
    ("#### (c)", "C"),
    ("<answer>C</answer>", "C"),
    ("<answer>\nC. yes\n</answer>", "C"),
    ("The answer is C.", "C"),
    ("The answer is: C", "C"),
    ("The answer is (C) because it fits.", "C"),
    ("**Answer: C**", "C"),
    ("**Answer:** C", "C"),
    ("Answer: **C**", "C"),
    ("Final answer: c", "C"),
    ("Answer - C", "C"),
    ("answer = C", "C"),
    ("ANSWER: C", "C"),
    ("The answer must be C.", "C"),
    ("The answer should be C", "C"),
    ("The correct choice is C.", "C"),
    ("Option C", "C"),
    ("I choose C.", "C"),
    ("I'd go with C", "C"),
    ("We select option C", "C"),
    ("Therefore, the answer is option C.", "C"),
    ("答案：C", "C"),
    ("答案是C", "C"),
    ("正确答案为 C。", "C"),
    ("Antwort: C", "C"),
    ("Réponse : C", "C"),
    ("Respuesta: C", "C"),
    ("Resposta: C", "C"),
    ("Ответ: C", "C"),
    ("C", "C"),
    ("c", "C"),
    ("(C)", "C"),
    ("C. 12", "C"),
    ("c) 12", "C"),
    ("**C**", "C"),
    ("Thinking...\n\nC", "C"),
    ("So\n\n**C**", "C"),
    (r"so \boxed{x+1}." "\n\nAnswer: C", "C"),
    ("A is wrong, C is right. The answer is C", "C"),
    ("Answer: A is wrong, C is right", "C"),
    ("Answer: not A, but C", "C"),
    ("The answer is A. No: the answer is C.", "C"),
    ("<think>The answer is A</think> The answer is C", "C"),
    ("The answer is C, not A.", "C"),
    ("The answer is C rather than A", "C"),
    ("The answer is A", "A"),
    ("The answer is A.", "A"),
    ("The answer is I.", "I"),
    ("Answer: I", "I"),
    ("The answer is A because I know", "A"),
    ("The answer is C. A common mistake is B.", "C"),
    ("The answer is $C$", "C"),
    (r"The answer is \text{C}", "C"),
]
UNREAD = [
    r"\boxed{A, C}",
    r"\boxed{A and C}",
    r"\boxed{A or C}",
    r"\boxed{A/C}",
    r"\boxed{AC}",
    r"\boxed{(A), (C)}",
    r"\boxed{A} and \boxed{C}",
    r"\boxed{x+1}",
    r"\boxed{12}",
    r"\boxed{}",
    r"\boxed{C",
    "The answer is A or C",
    "Answer: A and C",
    "Answer: A, C",
    "Answer: either A or C",
    "The answer is not C.",
    "Option C is wrong.",
    "The answer is a cat.",
    "The answer is Carbon",
    "I think so",
    "I am not sure",
    "The answer is: I do not know",
    "Answer: None of these",
    "ANSWER: Don't know",
    "A cat sat",
    "the answer is unclear",
    "",
    "<think>The answer is C",
    r"<think>so \boxed{C}",
    "#### A, C",
    "<answer>A or C</answer>",
    "The options are A, B and C.",
    "no letter at all",
]


def answer_of(text: str) -> str:
    return verify_choice(Answer(text, "C"), SETTINGS).answer


def test_one_clear_letter_is_read() -> None:
    assert [
        (text, letter, answer_of(text)) for text, letter in READ if answer_of(text) != letter
    ] == []


def test_anything_else_is_none() -> None:
    assert [(text, answer_of(text)) for text in UNREAD if answer_of(text)] == []


@pytest.mark.parametrize("gold", ["A, B", "A or B", "AB", "12", "", "cat", "A and B"])
def test_golds_that_are_no_letter(gold: str) -> None:
    assert letter_of(gold) is None


FORMS = [
    r"\boxed{%s}",
    r"\boxed{\text{(%s)}}",
    "The answer is %s.",
    "Answer: (%s)",
    "**Answer: %s**",
    "#### %s",
    "<answer>%s</answer>",
    "(%s)",
    "The correct option is %s",
    "I would pick %s.",
    "%s. 42",
    "答案：%s",
    "Final answer: %s",
]


@pytest.mark.parametrize("seed", range(5))
def test_every_letter_in_every_form(seed: int) -> None:
    rng = random.Random(seed)
    for form in FORMS:
        letter, other = rng.sample("ABCDEFGHIJ", 2)
        for text in (form % letter, f"We weigh {other} first.\n\n" + form % letter):
            assert verify_choice(Answer(text, letter), SETTINGS).is_correct, text
            assert not verify_choice(Answer(text, other), SETTINGS).is_correct, text
