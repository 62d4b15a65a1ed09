"""The verifier `math` (and `knights_knaves`) over whole benchmarks: what it accepts and rejects.

python bench/verifiers.py [FOLDER]      default ../shared/data/benchmarks; writes a table

Each gold answer is given in the forms a model would write it, and must be right; so must the
reference solutions that mark their answer. The gold plus one and the next problem's gold must not.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sympy import Expr, latex

from coop_rl.config.reward import RewardSection
from coop_rl.rewards.knights_knaves import roles_in
from coop_rl.rewards.math_answer import parse_answer
from coop_rl.rewards.math_text import normalise, read
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.verdict import Answer

NAMES = (
    "math500", "minerva_math", "olympiadbench", "aime24", "amc23", "aime25", "gsm8k",
    "knights_knaves",
)  # fmt: skip
SOLVED = ("math500", "minerva_math", "gsm8k", "aime24")
"""Their solutions mark the answer, by a box or ####."""


def details_of(row: Mapping[str, Any]) -> str:
    """Return what the verifier gets besides the gold, as `coop-rl evaluate` gives it."""
    more: dict[str, Any] = {}
    if row.get("answer_tex"):
        more["golds"] = [row["answer_tex"]]
    if row.get("tolerance"):
        more["tolerance"] = row["tolerance"]
    return json.dumps(more) if more else ""


def without_dollars(text: str) -> str:
    """Return a gold answer as it would stand in a box."""
    return text.replace("\\$", "").replace("$", "")


def questions(row: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (kind, response); the response is wrong where the kind begins with `not`."""
    gold = without_dollars(row.get("answer_tex") or row["answer"])
    yield "boxed in prose", f"First, we look.\nSo it is \\boxed{{{gold}}}, as was to be shown."
    yield "\\dfrac", f"\\boxed{{{gold.replace(chr(92) + 'frac', chr(92) + 'dfrac')}}}"
    yield "display", f"\\[\\boxed{{ {gold} }}\\]"
    yield "####", f"Done.\n#### {gold}"
    value = parse_answer(normalise(gold))
    if isinstance(value, Expr) and value.is_number and value.is_finite:
        if not read(gold).unit:
            yield "with unit", f"\\boxed{{{gold}\\text{{ cm}}}}"
        if value.is_Integer:
            yield "with commas", f"\\boxed{{{int(value):,}}}"
            yield "as decimal", f"\\boxed{{{int(value)}.0}}"
        yield "not gold + 1", f"\\boxed{{{latex(value + 1)}}}"
    if row["source"] in SOLVED:
        yield "solution", row["solution"]
    other = without_dollars(after.get("answer_tex") or after["answer"])
    theirs = parse_answer(normalise(other))
    if normalise(other) != normalise(gold) and (value is None or value != theirs):
        yield "not the next gold", f"\\boxed{{{other}}}"


def roles(row: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the same for Knights and Knaves."""
    gold = row["answer"]
    yield "boxed in prose", f"So \\boxed{{{gold}}}"
    yield "####", "In all: <answer>" + gold.replace("\n", ", ") + "</answer>"
    found = roles_in(gold) or {}
    name, role = next(iter(found.items()))
    flipped = found | {name: "knave" if role == "knight" else "knight"}
    yield "not gold + 1", "\\boxed{" + ", ".join(f"{n} is a {r}" for n, r in flipped.items()) + "}"
    yield "not the next gold", f"\\boxed{{{after['answer']}}}"


def check(name: str, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return right verdicts by kind, as n/N, and the wrong ones as text."""
    with (folder / name / "test.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) | {"source": name} for line in file]
    is_logic = name == "knights_knaves"
    section = RewardSection.model_validate(
        {"kind": "knights_knaves" if is_logic else "math", "num_workers": 2}
    )
    asked = [
        (kind, Answer(text, row["answer"], details_of(row)))
        for row, after in zip(rows, rows[1:] + rows[:1], strict=True)
        for kind, text in (roles if is_logic else questions)(row, after)
    ]
    pool = RewardPool(section)
    started = time.monotonic()
    verdicts = pool.score([answer for _, answer in asked])
    rate = len(asked) / (time.monotonic() - started)
    pool.close()
    good: Counter[str] = Counter()
    wrong: list[str] = []
    for (kind, answer), verdict in zip(asked, verdicts, strict=True):
        if verdict.is_correct != kind.startswith("not"):
            good[kind] += 1
        else:
            wrong.append(f"{name} {kind}: {answer.text[-80:]!r} gold {answer.gold!r}")
    total = Counter(kind for kind, _ in asked)
    return {k: f"{good[k]}/{n}" for k, n in total.items()} | {"answers/s": f"{rate:.0f}"}, wrong


def main(folder: Path) -> None:
    """Print a Markdown table and every failure."""
    results = {name: check(name, folder) for name in NAMES}
    kinds = list(dict.fromkeys(kind for found, _ in results.values() for kind in found))
    lines = ["| | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for kind in kinds:
        cells = " | ".join(results[name][0].get(kind, "") for name in NAMES)
        lines.append(f"| {kind} | {cells} |")
    failures = [failure for _, wrong in results.values() for failure in wrong]
    sys.stdout.write("\n".join([*lines, "", *failures]) + "\n")


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else root.parent / "shared/data/benchmarks")
