r"""The benchmarks `coop-rl evaluate --benchmark` knows; their texts are never part of this package.

    <data-dir>/<name>/test.jsonl  (columns id, problem, answer)  -+
    the hub, where there is no data-dir                          -+-> rows --> EvaluationSet

Rows carry what their verifier needs beside the gold (`Prompt.details`): Minerva's golds written as
TeX, OlympiadBench's tolerance.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from coop_rl.config.data import DataSource, HubDataset
from coop_rl.data.jsonl import parse_object, require_whole_characters
from coop_rl.data.opening import read_lines
from coop_rl.data.rows import TextRow
from coop_rl.data.tables import load_table
from coop_rl.errors import ConfigError, DataError

DATA_DIR_VARIABLE = "COOP_RL_DATA"
BOXED = "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{}."
ROLES = (
    "{prompt}\nPlease reason step by step. At the end write everybody's role within "
    "<answer> </answer>, one per line, such as: (1) Zoey is a knight."
)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of problems, how they are put, and how answers are judged."""

    name: str
    hub: DataSource | None
    """Where it is on the Hugging Face hub; None: it is not there."""
    verifier: str = "math"
    """Its verifier, by the name that `reward.kind` would give."""
    question: str = BOXED
    """What the model is asked, with `{prompt}` for the problem."""


def _hub(name: str, split: str = "test", subset: str | None = None, **columns: str) -> DataSource:
    """Return a data set of the hub, its columns `problem` and `answer` unless others are given."""
    where = HubDataset(name=name, split=split, subset=subset)
    return DataSource.model_validate(
        {"dataset": where, "prompt_column": "problem", "answer_column": "answer", **columns}
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("math500", _hub("HuggingFaceH4/MATH-500")),
        Benchmark("minerva_math", _hub("math-ai/minervamath", prompt_column="question")),
        Benchmark(
            "olympiadbench",
            _hub(
                "Hothan/OlympiadBench",
                "train",
                "OE_TO_maths_en_COMP",
                prompt_column="question",
                answer_column="final_answer",
            ),
        ),
        Benchmark("aime24", _hub("math-ai/aime24", answer_column="solution")),
        Benchmark("aime25", _hub("math-ai/aime25")),
        Benchmark("amc23", _hub("math-ai/amc23", prompt_column="question")),
        Benchmark("gsm8k", _hub("openai/gsm8k", subset="main", prompt_column="question")),
        Benchmark("knights_knaves", None, "knights_knaves", ROLES),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name.

    Raises:
        ConfigError: There is none; lists all.
    """
    if name not in BENCHMARKS:
        raise ConfigError(
            f"unknown benchmark {name!r}; allowed: {', '.join(BENCHMARKS)}; other data: give a "
            "JSONL file as evaluation.data (coop-rl evaluate --data FILE)"
        )
    return BENCHMARKS[name]


def verifiers_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the verifiers that benchmarks need, so that workers can load them beforehand."""
    return tuple(sorted({find_benchmark(name).verifier for name in names}))


def benchmark_rows(
    benchmark: Benchmark, data_dir: str | None, limit: int | None, *, is_whole: bool = False
) -> list[TextRow]:
    """Return a benchmark's rows, at most `limit` from the top, with columns prompt and answer.

    Args:
        benchmark: One of `BENCHMARKS`.
        data_dir: Folder with <name>/test.jsonl; None: the environment's COOP_RL_DATA, else the hub.
        limit: None: all rows.
        is_whole: Whether rows carry all their columns, for reward functions of the user's own.

    Raises:
        DataError: The file is missing or has a bad row, or the hub does not give the data.
    """
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    path = Path(folder).expanduser() / benchmark.name / "test.jsonl" if folder else None
    raw = _hub_rows(benchmark, limit) if path is None else _file_rows(path, limit)
    origin = str(path) if path else f"{benchmark.name} on the hub"
    rows = [_row(benchmark, f"{origin}:{i}", i, values, is_whole=is_whole) for i, values in raw]
    if not rows:
        raise DataError(f"{origin} holds no rows; give a file with one JSON object a line")
    if len({row.id for row in rows}) < len(rows):
        raise DataError(f"{origin}: ids must be unique; rename the double ones")
    return rows


def _file_rows(path: Path, limit: int | None) -> list[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise DataError(
            f"there is no {path}; put the benchmark there, give the folder above as --data-dir "
            f"(evaluation.data_dir, {DATA_DIR_VARIABLE}), or none of them to ask the hub"
        )
    return [
        (number, parse_object(f"{path}:{number}", line))
        for number, _, line in islice(read_lines(path), limit)
    ]


def _hub_rows(benchmark: Benchmark, limit: int | None) -> list[tuple[int, Mapping[str, Any]]]:
    source = benchmark.hub
    if source is None or source.dataset is None:
        raise DataError(
            f"{benchmark.name} is not on the hub; give the folder with {benchmark.name}/test.jsonl "
            f"as --data-dir (evaluation.data_dir, {DATA_DIR_VARIABLE})"
        )
    try:
        table = load_table(source.dataset)
    except DataError as error:
        raise DataError(
            f"{error}; or give the folder with {benchmark.name}/test.jsonl as --data-dir "
            f"({DATA_DIR_VARIABLE})"
        ) from None
    names = {source.prompt_column: "problem", source.answer_column: "answer"}
    return [
        (i, {"id": str(i), **{names.get(key, key): value for key, value in row.items()}})
        for i, row in enumerate(islice(table, limit), start=1)
    ]


def _row(
    benchmark: Benchmark, place: str, number: int, values: Mapping[str, Any], *, is_whole: bool
) -> TextRow:
    answer = values.get("answer")
    if isinstance(answer, list):  # OlympiadBench on the hub
        answer = ", ".join(map(str, answer))
    for column, value in (("problem", values.get("problem")), ("answer", answer)):
        if not isinstance(value, str | int) or not str(value).strip():
            raise DataError(
                f"{place}: column {column!r} must be text, got {value!r}; renew the file"
            )
    gold = str(answer)
    if benchmark.name == "gsm8k" and "####" in gold:  # its own files give the solution as answer
        gold = gold.rpartition("####")[2].replace(",", "").strip()
    if gold.startswith("\\boxed{") and gold.endswith("}"):  # AIME24 on the hub
        gold = gold[len("\\boxed{") : -1]
    columns, details = {"prompt": str(values["problem"]), "answer": gold}, _details(values)
    identity = str(values.get("id", number))
    for column, text in ("id", identity), *columns.items():
        require_whole_characters(place, column, text)
    more, whole = json.dumps(details) if details else "", json.dumps(values, default=str)
    return TextRow(place, identity, columns, more, whole=whole if is_whole else "")


def _details(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the verifier `math` reads beside the gold."""
    details: dict[str, Any] = {}
    if values.get("answer_tex"):
        details["golds"] = [str(values["answer_tex"])]
    tolerance = values.get("tolerance", values.get("error"))
    if tolerance not in (None, ""):
        with suppress(ValueError):  # OlympiadBench on the hub also has "1e-1,1e-2" for two answers
            details["tolerance"] = float(str(tolerance))
    return details
