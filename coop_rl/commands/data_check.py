"""`coop-rl data check`: do training questions occur in the evaluation? Prints, and can drop them.

evaluation: data, more_data, benchmarks --> OverlapIndex
prompts, demonstrations                 --> each question's closest overlap --> table
                                        --> without the overlaps, as new JSONL files
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coop_rl.config import RunConfig
from coop_rl.config.data import RowSource
from coop_rl.data.load import open_rows
from coop_rl.data.overlap import KINDS, Kind, Overlap, OverlapIndex, Question
from coop_rl.data.rows import ReadRows, TextRow, Wanted
from coop_rl.errors import ConfigError, DataError, RunDirectoryError
from coop_rl.evaluation.benchmarks import benchmark_rows, find_benchmark
from coop_rl.files import rewriting

NUM_EXAMPLES = 2
EXCERPT = 160
"""Characters of a question that are shown."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one source of training data."""

    name: str
    """Its section, and its name in a mixture."""
    read: ReadRows
    overlaps: dict[int, Overlap]
    """By the row's position."""


def check_data(
    config: RunConfig, drop: Kind | None, folder: Path | None, console: Console
) -> list[Checked]:
    """Compare all training questions with all evaluation questions, and print what overlaps.

    Args:
        config: The run; its model is not needed.
        drop: Overlaps of this kind and stronger are dropped from the files written.
        folder: Where they are written; None: nothing is.
        console: Prints.

    Raises:
        UserError: A source cannot be read.
    """
    if (drop is None) != (folder is None):
        raise ConfigError("--drop and --to go together: what to drop, and the folder to write to")
    index = OverlapIndex(_evaluation_questions(config))
    checked = [_check(name, source, config, index) for name, source in _training(config)]
    _print(checked, len(index), console)
    if drop is not None and folder is not None:
        for source in checked:
            _write(source, drop, folder, console)
    return checked


def _evaluation_questions(config: RunConfig) -> Iterator[Question]:
    section = config.evaluation
    for _, where, source in section.held_out:
        column = source.prompt_column
        read = open_rows(where, source, config, section.num_items, Wanted((column,)))
        _require_rows(where, read)
        for row in read.rows:
            yield _question(row, column)
    for name in section.benchmarks:
        for row in benchmark_rows(find_benchmark(name), section.data_dir, None):
            yield Question(f"{name} {row.id}", row.columns["prompt"])


def _question(row: TextRow, column: str) -> Question:
    return Question(row.place, row.turns(column)[-1].text)


def _training(config: RunConfig) -> Iterator[tuple[str, RowSource]]:
    """Yield every source of training data the method uses."""
    sources: list[tuple[str, RowSource]] = []
    if config.method.samples:
        named = config.prompts.mixture
        sources += [(f"prompts.{s.name}", s) for s in named] or [("prompts", config.prompts)]
    if config.method.demonstrations != "none":
        shown = config.demonstrations
        sources += [(f"demonstrations.{s.name}", s) for s in shown.mixture] or [
            ("demonstrations", shown)
        ]
    yield from sources


def _check(name: str, source: RowSource, config: RunConfig, index: OverlapIndex) -> Checked:
    read = open_rows(name, source, config)
    _require_rows(name, read)
    overlaps = {
        position: found
        for position, row in enumerate(read.rows)
        if (found := index.find(_question(row, source.prompt_column)))
    }
    return Checked(name, read, overlaps)


def _require_rows(name: str, read: ReadRows) -> None:
    """Refuse to find no overlap where no row was looked at."""
    if not read.rows:
        raise DataError(f"{name}: none of {read.bad.total} rows can be read: {read.bad.first}")


def _print(checked: Sequence[Checked], num_questions: int, console: Console) -> None:
    table = Table(
        title=f"training questions that occur in {num_questions:,} evaluation questions",
        title_justify="left",
    )
    for column in ("source", "rows", "malformed", *KINDS):
        table.add_column(column, justify="left" if column == "source" else "right")
    for source in checked:
        counts = Counter(found.kind for found in source.overlaps.values())
        figures = [len(source.read.rows), source.read.bad.total, *(counts[kind] for kind in KINDS)]
        table.add_row(source.name, *(f"{figure:,}" for figure in figures))
    console.print(table)
    console.print(
        "same: equal words; near: 0.6 of all 5-word runs shared; contained: half of the evaluation "
        "question lies in shared 13-word runs; run: any shared 13-word run",
        style="dim",
    )
    for source in checked:
        for kind in KINDS:
            found = [o for o in source.overlaps.values() if o.kind == kind]
            for overlap in sorted(found, key=lambda o: -o.similarity)[:NUM_EXAMPLES]:
                _print_example(source.name, overlap, console)


def _print_example(name: str, overlap: Overlap, console: Console) -> None:
    console.print(
        Text(
            f"\n{name}  {overlap.kind}  similarity {overlap.similarity:.2f}, "
            f"covered {overlap.covered:.2f}",
            style="bold",
        )
    )
    for question in (overlap.training, overlap.evaluation):
        text = " ".join(question.text.split())
        shown = text if len(text) <= EXCERPT else text[:EXCERPT] + "..."
        console.print(Text(f"  {question.place}\n    {shown}"), soft_wrap=True)


def _write(source: Checked, drop: Kind, folder: Path, console: Console) -> None:
    """Write the rows that stay, with the columns the config uses.

    Raises:
        RunDirectoryError: The folder cannot be written.
    """
    dropped = KINDS[: KINDS.index(drop) + 1]
    path = folder / f"{source.name}.jsonl"
    kept = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rewriting(path) as side, side.open("w", encoding="utf-8") as file:
            for position, row in enumerate(source.read.rows):
                found = source.overlaps.get(position)
                if found is None or found.kind not in dropped:
                    kept += 1
                    file.write(json.dumps(_as_object(row), ensure_ascii=False) + "\n")
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {folder}: {error.strerror}; give another folder as --to"
        ) from None
    left_out = len(source.read.rows) - kept
    console.print(f"{path}: {kept:,} rows, {left_out:,} dropped ({', '.join(dropped)})")


def _as_object(row: TextRow) -> dict[str, object]:
    details = json.loads(row.details) if row.details else {}
    chats = {
        column: [{"role": turn.role, "content": turn.text} for turn in chat]
        for column, chat in row.chats.items()
    }
    return {"id": row.id, **details, **row.columns, **chats}
