"""Overlaps of training questions with evaluation questions: what counts, and what does not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop_rl.data.overlap import MOST_QUESTIONS_PER_RUN, OverlapIndex, Question, words_of

SHARED = Path(__file__).parents[3] / "shared/data"
TRAIN = (
    "A train leaves the station at noon and travels at sixty miles per hour toward the city while "
    "another train leaves the city an hour later. When do they meet?"
)


def index(*texts: str) -> OverlapIndex:
    return OverlapIndex(Question(f"set:{i}", text) for i, text in enumerate(texts))


def kind(evaluation: str, training: str) -> str | None:
    found = index(evaluation).find(Question("train:1", training))
    return found.kind if found else None


@pytest.mark.parametrize(
    ("evaluation", "training", "expected"),
    [
        (TRAIN, TRAIN, "same"),
        (TRAIN, TRAIN.upper().replace(" ", "\n "), "same"),
        ("Find $\\dfrac{1}{2}$ of 3.", "find \\frac12 of 3", None),
        ("Find $\\dfrac{1}{2}$ of $x$.", "Find \\frac{1}{2} of x", "same"),
        ("Find $\\left( x \\right)$", "Find (x)", "same"),
        (TRAIN, TRAIN.replace("sixty", "seventy"), "near"),
        (TRAIN, f"{TRAIN} " + " ".join(f"word{i}" for i in range(90)), "contained"),
        (
            TRAIN,
            " ".join(TRAIN.split()[:14]) + " " + " ".join(f"w{i}" for i in range(40)),
            "run",
        ),
        (TRAIN, " ".join(TRAIN.split()[:12]) + " " + " ".join(f"w{i}" for i in range(40)), None),
        ("What is 2 + 3?", "What is 2 - 3?", None),
        ("What is 2 + 3?", "What is 2+3", "same"),
        ("", "", None),
        ("...", "?!", None),
    ],
)
def test_kinds(evaluation: str, training: str, expected: str | None) -> None:
    assert kind(evaluation, training) == expected


def test_the_strongest_overlap_is_reported() -> None:
    found = index(TRAIN.replace("sixty", "seventy"), TRAIN, "other").find(Question("t", TRAIN))
    assert found is not None
    assert (found.kind, found.evaluation.place, found.similarity) == ("same", "set:1", 1.0)


def test_a_template_of_many_questions_is_no_overlap() -> None:
    template = " ".join(f"word{i}" for i in range(20))

    def fill(i: int) -> str:
        return f"{template} " + " ".join(f"own{i}x{j}" for j in range(30))

    few = index(*(fill(i) for i in range(MOST_QUESTIONS_PER_RUN))).find(Question("t", fill(99)))
    many = index(*(fill(i) for i in range(MOST_QUESTIONS_PER_RUN + 1))).find(
        Question("t", fill(99))
    )
    assert few is not None
    assert few.kind == "run"
    assert many is None


@given(st.lists(st.text(max_size=80), max_size=5), st.text(max_size=80))
def test_every_question_with_a_word_overlaps_itself(others: list[str], text: str) -> None:
    found = index(*others, text).find(Question("t", text))
    assert (found is not None and found.kind == "same") == bool(words_of(text))


@given(st.text(max_size=200), st.text(max_size=200))
def test_similarity_and_cover_are_shares(evaluation: str, training: str) -> None:
    found = index(evaluation).find(Question("t", training))
    if found is not None:
        assert 0 <= found.similarity <= 1
        assert 0 <= found.covered <= 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared data are not here")
def test_known_overlaps_of_real_data_are_found() -> None:
    """LIMR's row marked `overlaps` is, and GSM8K's halves are apart."""

    def rows(path: Path) -> list[dict]:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    olympiad = OverlapIndex(
        Question(row["id"], row["problem"])
        for row in rows(SHARED / "benchmarks/olympiadbench/test.jsonl")
    )
    marked = [row for row in rows(SHARED / "train/limr.jsonl") if row.get("overlaps")]
    assert marked
    for row in marked:
        found = olympiad.find(Question("limr", row["problem"]))
        assert found is not None
        assert found.evaluation.place == row["overlaps"]
    gsm8k = OverlapIndex(
        Question(row["id"], row["problem"]) for row in rows(SHARED / "benchmarks/gsm8k/test.jsonl")
    )
    train = [Question(row["id"], row["problem"]) for row in rows(SHARED / "train/gsm8k.jsonl")]
    kinds = [found.kind for question in train if (found := gsm8k.find(question))]
    assert "same" not in kinds
    assert "near" not in kinds
    assert all(gsm8k.find(Question("t", row["problem"])) for row in rows(
        SHARED / "benchmarks/gsm8k/test.jsonl")[:200])  # fmt: skip
