"""Parquet files and Hugging Face data sets as rows by position, through the library `datasets`.

They are memory-mapped: rows are read when asked for. Code that comes with a data set is never run.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coop_rl.config.data import HubDataset
from coop_rl.data.jsonl import open_jsonl, to_row
from coop_rl.data.opening import require_parquet
from coop_rl.data.rows import BadRows, ByPosition, ReadRows, RowError, TextRow, Wanted
from coop_rl.errors import DataError, first_line
from coop_rl.files import rewriting

CACHE_VARIABLE = "COOP_RL_CACHE"
DEFAULT_CACHE = "~/.cache/coop-rl"
HUB_ADVICE = "check its name, subset and split, and the network"
FILE_ADVICE = "give parquet files that are whole, with the same columns"


def open_parquet(paths: Sequence[Path], wanted: Wanted, limit: int | None) -> ReadRows:
    """Open parquet files.

    Raises:
        DataError: One is missing or no whole parquet file.
    """
    for path in paths:
        require_parquet(path)
    origin = ", ".join(map(str, paths))
    with _loading(origin, FILE_ADVICE) as datasets:
        files = [str(path) for path in paths]
        table = datasets.load_dataset("parquet", data_files=files, split="train")
    return _check(table, origin, wanted, limit)


def open_dataset(source: HubDataset, wanted: Wanted, limit: int | None) -> ReadRows:
    """Open a data set of the hub or of a local folder.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    if source.streaming:
        return open_jsonl([_stream(source)], wanted, limit)
    num_rows = min((n for n in (limit, source.num_rows) if n is not None), default=None)
    return _check(load_table(source), source.name, wanted, num_rows)


def load_table(source: HubDataset) -> Any:
    """Return a data set of the hub or of a local folder, memory-mapped.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    folder = Path(source.name)
    with _loading(source.name) as datasets:
        if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(source.name)
            return loaded[source.split] if isinstance(loaded, dict) else loaded
        return datasets.load_dataset(
            source.name, source.subset, split=source.split, revision=source.revision
        )


class TableRows(ByPosition[TextRow]):
    """The good rows of a memory-mapped table."""

    def __init__(self, table: Any, origin: str, wanted: Wanted) -> None:
        self._table, self._origin, self._wanted = table, origin, wanted
        self.good: Sequence[int] = range(len(table))

    def __len__(self) -> int:
        """Return the good rows."""
        return len(self.good)

    def item(self, position: int) -> TextRow:
        """Read a good row."""
        return self.read(self.good[position])

    def read(self, index: int) -> TextRow:
        """Read a row by its index in the table.

        Raises:
            RowError: It is bad.
        """
        place = f"{self._origin}[{index}]"
        return to_row(place, index, self._table[index], self._wanted)


def _check(table: Any, origin: str, wanted: Wanted, limit: int | None) -> ReadRows:
    """Read every wanted row once."""
    present = set(table.column_names)
    missing = [c for c in wanted.columns if not present & {c, c.split(".")[0]}]
    if missing and len(table):
        TableRows(table, origin, wanted).read(0)  # says what there is instead
    if not wanted.is_whole:
        named = {part for name in (*wanted.names, "id") for part in (name, name.split(".")[0])}
        table = table.select_columns([c for c in table.column_names if c in named])
    if limit is not None:
        table = table.select(range(min(limit, len(table))))
    rows, bad = TableRows(table, origin, wanted), BadRows()
    good: list[int] = []
    seen: set[str] = set()
    for index in range(len(table)):
        try:
            row = rows.read(index)
            if row.id in seen:
                message = f"ids must be unique, got {row.id!r} again; rename one"
                raise RowError(row.place, message, "id seen before")
        except RowError as error:
            bad.add(error)
            continue
        seen.add(row.id)
        good.append(index)
    rows.good = good
    if not good and not bad.total:
        raise DataError(f"{origin} holds no rows; give one that does")
    return ReadRows(rows, bad)


@contextmanager
def _loading(origin: str, advice: str = HUB_ADVICE) -> Iterator[Any]:
    """Yield the library, silenced; its errors become one line."""
    import datasets  # slow to import, and only these sources need it

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each try offline
    try:
        yield datasets
    except Exception as error:  # the library raises its own, pyarrow's, fsspec's and the network's
        reason = first_line(error)
        raise DataError(
            f"cannot read the data set {origin}: {type(error).__name__}: {reason}; {advice}"
        ) from None


def _stream(source: HubDataset) -> Path:
    """Fetch the first rows into a file of the cache, once; a resumed run reads the same file."""
    key = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:16]
    folder = Path(os.environ.get(CACHE_VARIABLE, DEFAULT_CACHE)).expanduser() / "streams"
    path = folder / f"{source.name.replace('/', '--')}-{key}.jsonl"
    if path.is_file():
        return path
    with _loading(source.name) as datasets:
        stream = datasets.load_dataset(
            source.name,
            source.subset,
            split=source.split,
            revision=source.revision,
            streaming=True,
        )
        folder.mkdir(parents=True, exist_ok=True)
        with rewriting(path) as side, side.open("w", encoding="utf-8") as file:
            for row in stream.take(source.num_rows):
                file.write(json.dumps(row, default=str) + "\n")
    return path
