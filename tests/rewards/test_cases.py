"""Rows that people's own data and models gave, where they are here; each is judged as expected."""

import json
from pathlib import Path

import pytest

from coop_rl.rewards.registry import VERIFIERS
from coop_rl.rewards.verdict import Answer, VerifierSettings

CASES = Path(__file__).parents[3] / "shared/cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="shared data are not here")
@pytest.mark.parametrize("kind", ["math", "choice", "number"])
def test_every_row_is_judged_as_expected(kind: str) -> None:
    wrong = []
    for line in (CASES / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = Answer(
            row["response"],
            row["gold"],
            row.get("details", ""),
            is_truncated=row.get("truncated", False),
        )
        if VERIFIERS[kind].verify(answer, VerifierSettings("#")).is_correct != row["right"]:
            wrong.append((row["response"], row["gold"], row["right"]))
    assert wrong == []
