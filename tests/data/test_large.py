"""A file larger than the memory it takes; 5 GB of it: bench/large_jsonl.py."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench/large_jsonl.py"
NUM_ROWS = 8_000
MOST_MIB = 45
"""Above what the imports take: tokenizer, index, permutations and ids; the file has 80."""


def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(NUM_ROWS):
            a, b = i % 89 + 1, i % 97 + 1
            row = {
                "id": f"r{i}",
                "prompt": f"{a}+{b}=?\n",
                "answer": str(a + b),
                "notes": "x" * 10_000,
            }
            file.write(json.dumps(row) + "\n")
    done = subprocess.run(
        [sys.executable, str(BENCH), "--read", str(path)], capture_output=True, check=True
    )
    figures = json.loads(done.stdout)
    assert figures["rows"] == NUM_ROWS
    assert figures["peak_mib"] - figures["imports_mib"] < MOST_MIB
