"""Writes the data sets of the demo: `python -m tests.support.demo.write_data --out FOLDER`.

Files, pairwise disjoint but for the last because each draws from its own split of the problems:

    demonstrations.jsonl  {"id", "prompt", "reasoning", "answer"}   for SFT
    prompts.jsonl         {"id", "prompt", "answer"}                for RL
    held_out.jsonl        {"id", "prompt", "answer"}                for evaluation
    careless.jsonl        as demonstrations.jsonl, the same problems with every carry lost

With `--carries` demonstrations.jsonl and held_out.jsonl alone, of problems in which every addition
carries: the base model, which loses most carries, is rarely right there; and the first of those
demonstrations as few_demonstrations.jsonl. With `--levels`
held_out.jsonl alone, of sums that no training had: two terms, four terms, terms of three digits.
"""

import argparse
import json
import logging
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tests.support.demo.task import Problem, Split, draw_distinct, solve, solve_forgetfully

LOG = logging.getLogger(__name__)
NUM_CARRIES = {Split.DEMONSTRATIONS: 512, Split.HELD_OUT: 512}
NUM_FEW = 32
LEVELS = {"two-terms": (2, 1, 99), "four-terms": (4, 1, 99), "three-digits": (3, 100, 999)}
"""Number of terms, smallest and largest term, by the name that ids begin with."""
NUM_OF_LEVEL = 256
NUM_ROWS = {Split.DEMONSTRATIONS: 2048, Split.PROMPTS: 2048, Split.HELD_OUT: 512}


def to_row(problem: Problem, split: Split, index: int) -> dict[str, str]:
    """Turn a problem into one row; only demonstrations show the reasoning."""
    row = {"id": f"{split}-{index:04d}", "prompt": problem.prompt}
    if split is Split.DEMONSTRATIONS:
        row["reasoning"] = solve(problem).reasoning
    return row | {"answer": problem.answer}


def write_split(folder: Path, split: Split, seed: int) -> Path:
    """Write one data set and return its path."""
    # A string seed, so that the order of the splits or a new one changes no other file.
    problems = islice(draw_distinct(random.Random(f"{seed}-{split}"), split), NUM_ROWS[split])
    lines = [json.dumps(to_row(problem, split, index)) for index, problem in enumerate(problems)]
    path = folder / f"{split}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_careless(folder: Path) -> Path:
    """Write the demonstrations anew as somebody solves them who loses every carry."""
    rows = []
    for line in (folder / f"{Split.DEMONSTRATIONS}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        terms = row["prompt"].partition("=")[0].split("+")
        careless = solve_forgetfully(Problem(tuple(map(int, terms))), random.Random(0), 1.0)
        answer = {"reasoning": careless.reasoning, "answer": careless.answer}
        rows.append(row | {"id": row["id"].replace("demonstrations", "careless"), **answer})
    path = folder / "careless.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_carries(folder: Path, seed: int) -> None:
    """Write the data sets of problems in which every addition carries."""
    for split, num_rows in NUM_CARRIES.items():
        problems = draw_distinct(random.Random(f"{seed}-{split}-carries"), split)
        hard = islice(filter(always_carries, problems), num_rows)
        rows = [to_row(problem, split, index) for index, problem in enumerate(hard)]
        names = {f"{split}.jsonl": rows}
        if split is Split.DEMONSTRATIONS:
            names[f"few_{split}.jsonl"] = rows[:NUM_FEW]
        for name, those in names.items():
            text = "".join(json.dumps(row) + "\n" for row in those)
            (folder / name).write_text(text, encoding="utf-8")


def write_levels(folder: Path, seed: int) -> None:
    """Write one data set with all levels, one behind the other."""
    rows = []
    for level, (num_terms, smallest, largest) in LEVELS.items():
        rng, problems = random.Random(f"{seed}-{level}"), dict[Problem, None]()
        while len(problems) < NUM_OF_LEVEL:
            terms = tuple(rng.randint(smallest, largest) for _ in range(num_terms))
            problems[Problem(terms)] = None
        for index, problem in enumerate(problems):
            id_ = f"{level}-{index:04d}"
            rows.append({"id": id_, "prompt": problem.prompt, "answer": problem.answer})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{Split.HELD_OUT}.jsonl").write_text(text, encoding="utf-8")


def always_carries(problem: Problem) -> bool:
    """Return whether the units of every addition come to 10 or more."""
    subtotal, *rest = problem.terms
    for term in rest:
        if subtotal % 10 + term % 10 < 10:
            return False
        subtotal += term
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--carries", action="store_true", help="problems that always carry")
    parser.add_argument("--levels", action="store_true", help="sums that no training had")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    parsed.out.mkdir(parents=True, exist_ok=True)
    if parsed.carries:
        write_carries(parsed.out, parsed.seed)
    if parsed.levels:
        write_levels(parsed.out, parsed.seed)
    if parsed.carries or parsed.levels:
        return
    for split in NUM_ROWS:
        path = write_split(parsed.out, split, parsed.seed)
        LOG.info("%s: %d rows, %d bytes", path, NUM_ROWS[split], path.stat().st_size)
    path = write_careless(parsed.out)
    LOG.info("%s: %d bytes", path, path.stat().st_size)


if __name__ == "__main__":
    main()
