r"""The demo task: sums with written intermediate steps, made by a seeded generator.

One problem as the model sees it, `|` marking the end of the prompt and of the response::

    12+46+37=?\n|12+46=58;58+37=95\n#95|
                 reasoning        answer

`write_data.py` draws the data sets from here, `train_base.py` the corpus of the base model.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

NUM_TERMS = 3
MAX_TERM = 99
STEP_SEPARATOR = ";"
ANSWER_MARK = "#"
ANSWER_JOIN = f"\n{ANSWER_MARK}"


class Split(StrEnum):
    """Where a problem may be used; every problem belongs to exactly one split."""

    BASE = "base"
    DEMONSTRATIONS = "demonstrations"
    PROMPTS = "prompts"
    HELD_OUT = "held_out"


# Upper bounds of the hash of a problem, as a share of all problems.
SPLIT_BOUNDS = (
    (0.4, Split.BASE),
    (0.6, Split.DEMONSTRATIONS),
    (0.8, Split.PROMPTS),
    (1.0, Split.HELD_OUT),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A sum of positive terms, added from left to right."""

    terms: tuple[int, ...]

    @property
    def prompt(self) -> str:
        """The text the model is given."""
        return "+".join(str(term) for term in self.terms) + "=?\n"

    @property
    def answer(self) -> str:
        """The right answer as the verifier compares it."""
        return str(sum(self.terms))

    @property
    def split(self) -> Split:
        """The split of the problem: a hash of its terms in sorted order.

        Sorted, so that a held-out sum never occurs elsewhere with its terms in another order.
        """
        key = "+".join(str(term) for term in sorted(self.terms))
        digest = hashlib.sha256(key.encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return next(split for bound, split in SPLIT_BOUNDS if share < bound)


@dataclass(frozen=True, slots=True)
class Solution:
    """Worked steps that lead to an answer, which need not be right."""

    reasoning: str
    answer: str

    @property
    def response(self) -> str:
        """The text the model is to produce, without the end-of-sequence token."""
        return join_response(self.reasoning, self.answer)


def join_response(reasoning: str, answer: str) -> str:
    r"""Return `reasoning + "\n#" + answer`."""
    return f"{reasoning}{ANSWER_JOIN}{answer}"


def draw_problem(rng: random.Random, split: Split) -> Problem:
    """Draw a problem of `split`, its terms uniform and independent."""
    while True:
        problem = Problem(tuple(rng.randint(1, MAX_TERM) for _ in range(NUM_TERMS)))
        if problem.split is split:
            return problem


def draw_distinct(rng: random.Random, split: Split) -> Iterator[Problem]:
    """Draw problems of `split` without end, none of them twice."""
    seen: set[Problem] = set()
    while True:
        problem = draw_problem(rng, split)
        if problem not in seen:
            seen.add(problem)
            yield problem


def solve(problem: Problem) -> Solution:
    """Solve a problem correctly."""
    return _work_out(problem, lambda: False)


def solve_forgetfully(problem: Problem, rng: random.Random, forget_rate: float) -> Solution:
    """Solve a problem, but lose each carry out of the units with probability `forget_rate`.

    A lost carry is carried on: the later steps add to the wrong subtotal.
    """
    return _work_out(problem, lambda: rng.random() < forget_rate)


def _work_out(problem: Problem, is_carry_lost: Callable[[], bool]) -> Solution:
    """Add the terms from left to right, asking at each carry out of the units if it is lost."""
    subtotal, *rest = problem.terms
    steps = []
    for term in rest:
        result = subtotal + term
        if subtotal % 10 + term % 10 >= 10 and is_carry_lost():
            result -= 10
        steps.append(f"{subtotal}+{term}={result}")
        subtotal = result
    return Solution(reasoning=STEP_SEPARATOR.join(steps), answer=str(subtotal))


def extract_answer(response: str) -> str | None:
    """Return what follows the last `#`, stripped; None without a `#`."""
    _, mark, answer = response.rpartition(ANSWER_MARK)
    return answer.strip() if mark else None


def is_right(response: str, answer: str) -> bool:
    """Whether a response ends in the right answer, compared as strings."""
    return extract_answer(response) == answer
