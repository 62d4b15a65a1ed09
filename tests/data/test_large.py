"""A file larger than the memory it takes; 5 GB of it: bench/large_jsonl.py."""

import json
import subprocess
import sys
from pathlib import Path

from bench.large_jsonl import write

BENCH = Path(__file__).parents[2] / "bench/large_jsonl.py"
FILE_BYTES = 80_000_000
MOST_MIB = 45
"""Above what the imports take: tokenizer, index, one permutation and 32,000 ids."""


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    write(path, FILE_BYTES)
    done = subprocess.run(
        [sys.executable, str(BENCH), "--read", str(path)], capture_output=True, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["rows"] > 30_000
    assert figures["peak_mib"] - figures["imports_mib"] < MOST_MIB
