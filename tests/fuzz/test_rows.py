"""Data files: every row is read, left out by its number, or the file refused in one line."""

import contextlib
import functools
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from coop_rl.config import RunConfig, load_config
from coop_rl.data.load import Loader
from coop_rl.data.model_folder import read_model_facts
from coop_rl.data.rendering import load_tokenizer
from coop_rl.data.rows import RowError, Wanted
from coop_rl.data.tables import open_parquet
from tests.fuzz.mutation import changed_bytes, changed_rows, changed_value
from tests.fuzz.survey import NUM_CASES, badly_told, survey

DEMO = Path("configs/local/demo.yaml")
CHAT = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": [{"type": "text", "text": "#2"}]},
]
SHAREGPT = [{"from": "human", "value": "1+2=?"}, {"from": "gpt", "value": "#3"}]
ROWS = (
    {"id": "a", "prompt": "1+1=?\n", "answer": "2", "reasoning": "1+1=2", "source": "book"},
    {"id": 7, "prompt": "2+1=?\n", "answer": 3, "reasoning": "2+1=3", "golds": ["3", "3.0"]},
    {"prompt": "3+1=?\n", "answer": "4", "reasoning": "", "meta": {"gold": {"text": "4"}}},
    {"prompt": CHAT, "answer": "2", "reasoning": "so"},
    {"prompt": SHAREGPT, "answer": "3", "reasoning": "so", "generations": ["#3", "#4"]},
)
JSONL = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
TABLE = [
    {"id": i, "prompt": f"{i}+1=?", "answer": str(i + 1), "reasoning": "so", "golds": ["2", "x"]}
    for i in range(3)
]
"""Of one type a column, as tables are."""
COLUMNS = ("prompt", "answer", "reasoning", "source", "golds", "meta.gold.text", "generations.1")
KINDS = ("exact", "number", "choice", "knights_knaves")


@functools.cache
def loader(kind: str) -> tuple[RunConfig, Loader]:
    config = load_config(DEMO, [f"reward.kind={kind}", "method.kind=rl"])
    tokenizer = load_tokenizer(config.model.path)
    return config, Loader(config, tokenizer, read_model_facts(config.model))


def changed_file(rng: random.Random, folder: Path) -> Path:
    """A changed file of any kind that is read; packed ones are changed before or after."""
    data = JSONL
    is_array, is_packed = rng.random() < 0.2, rng.random() < 0.2
    if is_array:
        whole = [changed_value(rng, row) if rng.random() < 0.3 else row for row in ROWS]
        data = json.dumps(whole).encode()
        data = changed_bytes(rng, data) if rng.random() < 0.5 else data
    else:
        data = changed_rows(rng, data)
    if is_packed:
        data = gzip.compress(data, 1)
        data = changed_bytes(rng, data) if rng.random() < 0.5 else data
    path = folder / f"rows{'.json' if is_array else '.jsonl'}{'.gz' if is_packed else ''}"
    path.write_bytes(data)
    return path


def test_prompts_and_demonstrations(tmp_path: Path) -> None:
    def case(rng: random.Random) -> None:
        config, reader = loader(rng.choice(KINDS))
        few = rng.choice((0.0, 0.5, 1.0))
        path = str(changed_file(rng, tmp_path))
        columns: dict[str, Any] = {"path": path, "prompt_column": rng.choice(("prompt", *COLUMNS))}
        columns["answer_column"] = rng.choice(("answer", "answer", *COLUMNS))
        if rng.random() < 0.5:
            details = rng.sample(COLUMNS, rng.choice((0, 0, 1)))
            source = config.prompts.model_copy(update=columns | {"details_columns": details})
            items, dropped = reader.prompts("prompts", source, 64, max_dropped=few)
            for prompt in items:
                prompt.text.encode()
                prompt.id.encode()
                assert prompt.token_ids
        else:
            columns["response_column"] = rng.choice(("reasoning", "generations.0", "prompt"))
            shown = config.demonstrations.model_copy(update=columns)
            _, dropped = reader.demonstrations(shown, "", few, None)
        for _, count, message in dropped.kinds:
            assert count > 0
            assert not badly_told(message)

    survey("rows", case)


@pytest.mark.parametrize("kind", ["bytes", "values"])
def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Fewer cases: the library takes its time for each."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    good = tmp_path / "good.parquet"
    datasets.Dataset.from_list(TABLE).to_parquet(good)
    whole, wanted = good.read_bytes(), Wanted(("prompt", "answer"), ("reasoning",), ("golds",))

    def case(rng: random.Random) -> None:
        path = tmp_path / "rows.parquet"
        if kind == "bytes":
            path.write_bytes(changed_bytes(rng, whole))
        else:
            rows = [changed_value(rng, row) for row in TABLE]
            try:
                datasets.Dataset.from_list(rows).to_parquet(path)
            except Exception:  # no table holds them
                return
        read = open_parquet([path], wanted, None)
        for row in read.rows:
            with contextlib.suppress(RowError):
                row.turns("prompt")
                row.text("answer")
        read.bad.settle("rows", len(read.rows) + read.bad.total, 1.0)

    survey(f"parquet {kind}", case, NUM_CASES // 40)
