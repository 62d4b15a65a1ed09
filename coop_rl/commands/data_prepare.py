"""`coop-rl data prepare`: well-known training sets as files that a config reads; needs the hub.

hub --load_table--> rows --recipe--> id, problem, answer, solution --> DIR/<name>/<split>.jsonl
                         --none----> left out, counted

The texts are others': the files are the user's own, and no part of this package.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from coop_rl.config.data import HubDataset
from coop_rl.data.jsonl import names_of
from coop_rl.data.tables import load_table
from coop_rl.errors import DataError, RunDirectoryError
from coop_rl.files import rewriting
from coop_rl.rewards.final_answer import find_final_answer

SetName = Literal["gsm8k", "math", "openr1"]
Made = dict[str, str] | None
"""The columns of a row but for its id; None: it is left out."""
CALCULATIONS = re.compile(r"<<[^<>\n]*>>")
"""What GSM8K's solutions say to a calculator, `48/2 = <<48/2=24>>24`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where a set lies, and how its rows become ours."""

    splits: tuple[HubDataset, ...]
    make: Callable[[Mapping[str, Any]], Made]
    demonstrations: str
    """The line of the config that says what a demonstration is."""


def _gsm8k(row: Mapping[str, Any]) -> Made:
    solution, marker, answer = CALCULATIONS.sub("", row["answer"]).rpartition("####")
    answer = answer.replace(",", "").strip()
    if not marker or not answer:
        return None
    return {"problem": row["question"], "answer": answer, "solution": solution.strip()}


def _math(row: Mapping[str, Any]) -> Made:
    final = find_final_answer(row["solution"])
    if final is None or not final.has_format:
        return None
    return {"problem": row["problem"], "answer": final.text, "solution": row["solution"]}


def _openr1(row: Mapping[str, Any]) -> Made:
    """Take the first trace that ended and that math-verify calls right."""
    checks = zip(row["correctness_math_verify"], row["is_reasoning_complete"], strict=True)
    right = [all(check) for check in checks]
    if not any(right) or not row["answer"]:
        return None
    trace = row["generations"][right.index(True)]
    return {"problem": row["problem"], "answer": row["answer"], "response": trace}


def _splits(name: str, subset: str, *splits: str) -> tuple[HubDataset, ...]:
    return tuple(HubDataset(name=name, subset=subset, split=split) for split in splits)


REASONING = "reasoning_column: solution"
RECIPES: dict[SetName, Recipe] = {
    "gsm8k": Recipe(_splits("openai/gsm8k", "main", "train", "test"), _gsm8k, REASONING),
    "math": Recipe(
        _splits("DigitalLearningGmbH/MATH-lighteval", "default", "train", "test"), _math, REASONING
    ),
    "openr1": Recipe(
        _splits("open-r1/OpenR1-Math-220k", "default", "train"),
        _openr1,
        "response_column: response",
    ),
}


def prepare_data(name: SetName, folder: Path, console: Console) -> list[Path]:
    """Fetch a set, write its splits, print the lines of a config for it; return the files.

    Raises:
        DataError: The hub does not give it, or gives other columns.
        RunDirectoryError: The folder cannot be written.
    """
    recipe = RECIPES[name]
    console.print(f"fetching {recipe.splits[0].name} from the hub")
    made = [(source, _rows(source, recipe)) for source in recipe.splits]
    paths = []
    for source, (rows, num_left_out) in made:
        path = folder / name / f"{source.split}.jsonl"
        _write(path, rows)
        console.print(f"{path}: {len(rows):,} rows, {num_left_out:,} left out", soft_wrap=True)
        paths.append(path)
    console.print(
        f"\nprompts:\n  path: {paths[0]}\n  prompt_column: problem\n"
        f"demonstrations:\n  path: {paths[0]}\n  prompt_column: problem\n  {recipe.demonstrations}",
        soft_wrap=True,
    )
    return paths


def _rows(source: HubDataset, recipe: Recipe) -> tuple[list[dict[str, str]], int]:
    table = load_table(source)
    rows = []
    for index, row in enumerate(table):
        try:
            made = recipe.make(row)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{source.name} has other columns now ({type(error).__name__}: {error}; got "
                f"{names_of(row)}); name those as docs/data.md says, with prompts.dataset"
            ) from None
        if made is not None:
            rows.append({"id": str(row.get("uuid") or f"{source.split}-{index}"), **made})
    return rows, len(table) - len(rows)


def _write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rewriting(path) as side, side.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {path}: {error.strerror}; give another folder as --to"
        ) from None
