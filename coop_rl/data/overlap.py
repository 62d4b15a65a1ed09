"""Whether training questions occur in evaluation sets; `commands.data_check` calls it.

    evaluation questions --shingles--> index --> each training question's overlap with the closest

| kind | a training question is called so when |
|---|---|
| same | its words are an evaluation question's words, in order |
| near | the two share at least 0.6 of their 5-word runs (Jaccard index) |
| contained | half of the evaluation question's words lie in 13-word runs of the training question |
| run | the two share a run of 13 words (arXiv 2005.14165, appendix C) |

Runs that more than five evaluation questions have are a template's and do not count; still, `run`
alone is often a phrase of the trade.

Words are lower-cased runs of letters, digits and single TeX or punctuation marks that carry meaning
in formulas, so spacing, `$` and `\\left` change nothing. The comparison is exact, not by hashing
into bands: evaluation sets fit in memory, training rows pass by one at a time.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from coop_rl.errors import ConfigError

Kind = Literal["same", "near", "contained", "run"]
KINDS: tuple[Kind, ...] = ("same", "near", "contained", "run")
"""From the strongest to the weakest."""
Run = tuple[str, ...]
SHINGLE_WORDS = 5
RUN_WORDS = 13
MOST_QUESTIONS_PER_RUN = 5
"""Evaluation questions a 13-word run may occur in before it counts as a template's."""
NEAR_JACCARD = 0.6
"""Jaccard index from which two questions count as near."""
CONTAINED_SHARE = 0.5
"""Covered share of an evaluation question's words from which it counts as contained."""
WORD = re.compile(r"\\?[^\W_]+|[+\-*/^_=<>!%&|]")
IGNORED = frozenset(
    (r"\left", r"\right", r"\text", r"\textbf", r"\mathrm", r"\mbox", r"\displaystyle", r"\quad")
)
SPELLINGS = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\leq": r"\le", r"\geq": r"\ge"}


@dataclass(frozen=True, slots=True)
class Question:
    """One text to compare."""

    place: str
    """Where it stands, for people: file and line, or set and id."""
    text: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training question and the evaluation question closest to it."""

    kind: Kind
    training: Question
    evaluation: Question
    similarity: float
    """Jaccard index of their 5-word runs."""
    covered: float
    """Share of the evaluation question's words that lie in shared 13-word runs."""


def kind_of(name: str | None) -> Kind | None:
    """Return the kind of that name.

    Raises:
        ConfigError: There is none; lists all.
    """
    for kind in KINDS:
        if kind == name:
            return kind
    if name is not None:
        raise ConfigError(f"unknown kind of overlap {name!r}; allowed: {', '.join(KINDS)}")
    return None


def words_of(text: str) -> list[str]:
    """Return what is compared."""
    found = WORD.findall(unicodedata.normalize("NFKC", text).lower())
    return [SPELLINGS.get(word, word) for word in found if word not in IGNORED]


class OverlapIndex:
    """The evaluation questions, ready to be asked about training questions."""

    def __init__(self, questions: Iterable[Question]) -> None:
        """Index the questions; those without a word are left out."""
        self._questions: list[Question] = []
        self._words: list[list[str]] = []
        self._sizes: list[int] = []
        self._by_shingle: dict[Run, list[int]] = {}
        self._by_run: dict[Run, list[int]] = {}
        for question in questions:
            if words := words_of(question.text):
                self._add(question, words)
        self._by_run = {
            r: uses for r, uses in self._by_run.items() if len(uses) <= MOST_QUESTIONS_PER_RUN
        }

    def _add(self, question: Question, words: list[str]) -> None:
        index, shingles = len(self._questions), set(_runs(words, SHINGLE_WORDS))
        self._questions.append(question)
        self._words.append(words)
        self._sizes.append(len(shingles))
        for shingle in shingles:
            self._by_shingle.setdefault(shingle, []).append(index)
        for run in set(_long_runs(words)):
            self._by_run.setdefault(run, []).append(index)

    def __len__(self) -> int:
        """Return the questions held."""
        return len(self._questions)

    def find(self, training: Question) -> Overlap | None:
        """Return the strongest overlap of a training question, or None."""
        words = words_of(training.text)
        shingles = set(_runs(words, SHINGLE_WORDS))
        shared = Counter(i for shingle in shingles for i in self._by_shingle.get(shingle, ()))
        similarity = {i: n / (len(shingles) + self._sizes[i] - n) for i, n in shared.items()}
        runs = {run for run in _long_runs(words) if run in self._by_run}
        covered = {i: self._covered(i, runs) for run in runs for i in self._by_run[run]}
        candidates = [
            (KINDS.index(kind), -similarity.get(i, 0.0), i)
            for i in similarity.keys() | covered.keys()
            if (kind := self._kind(i, words, similarity.get(i, 0.0), covered.get(i, 0.0)))
        ]
        if not candidates:
            return None
        rank, _, i = min(candidates)
        return Overlap(
            KINDS[rank], training, self._questions[i], similarity[i], covered.get(i, 0.0)
        )

    def _kind(self, index: int, words: list[str], similarity: float, covered: float) -> Kind | None:
        if words == self._words[index]:
            return "same"
        if similarity >= NEAR_JACCARD:
            return "near"
        if covered >= CONTAINED_SHARE:
            return "contained"
        return "run" if covered else None

    def _covered(self, index: int, runs: set[Run]) -> float:
        """Return the share of a question's words that lie in one of `runs`."""
        words = self._words[index]
        inside = {
            position
            for start, run in enumerate(_long_runs(words))
            if run in runs
            for position in range(start, start + RUN_WORDS)
        }
        return len(inside) / len(words)


def _runs(words: Sequence[str], length: int) -> list[Run]:
    """Return all runs of `length` words, in order; of a shorter text the whole."""
    last = max(1, len(words) - length + 1)
    return [tuple(words[i : i + length]) for i in range(last)] if words else []


def _long_runs(words: Sequence[str]) -> list[Run]:
    return _runs(words, RUN_WORDS) if len(words) >= RUN_WORDS else []
