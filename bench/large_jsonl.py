"""A 5 GB file of prompts as a run would use it: seconds to open, memory, and time per batch.

python bench/large_jsonl.py [GB]      writes the file into a temporary folder and removes it
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NUM_BATCHES = 1_000
PER_STEP = 32
ROW_CHARACTERS = 2_000
"""Of the question's surroundings, in a column no one asks for."""


def write(path: Path, num_bytes: int) -> None:
    """Write rows with a question, an answer and ballast."""
    rng = random.Random(0)
    filler = "".join(rng.choices("abcdefghij ", k=ROW_CHARACTERS * 4))
    written, i = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            start = i % len(filler) // 2
            a, b = i % 89 + 1, i % 97 + 1
            ballast = filler[start : start + ROW_CHARACTERS]
            row = {"id": f"r{i}", "prompt": f"{a}+{b}=?\n", "answer": str(a + b), "notes": ballast}
            written += file.write(json.dumps(row) + "\n")
            i += 1


def read(path: Path) -> None:
    """Open the file as `prompts` and draw batches; prints one JSON object."""
    from coop_rl.config import load_config
    from coop_rl.data.load import load_run_data

    imported = _peak_mib()
    config = load_config(
        ROOT / "configs/local/demo.yaml",
        [
            f"prompts.path={path}",
            "method.kind=rl",
            f"model.path={ROOT}/configs/local/demo/model",
            f"evaluation.data.path={ROOT}/configs/local/demo/held_out.jsonl",
        ],
    )
    started = time.monotonic()
    prompts = load_run_data(config).prompts
    opened_s = time.monotonic() - started
    order = prompts.order(PER_STEP, seed=0)
    started = time.monotonic()
    ids = {prompts[i].id for step in range(NUM_BATCHES) for i in order.batch(step)}
    batches_s = time.monotonic() - started
    figures = {
        "bytes": path.stat().st_size,
        "rows": len(prompts),
        "open_s": round(opened_s, 1),
        "batch_ms": round(1000 * batches_s / NUM_BATCHES, 2),
        "different_prompts": len(ids),
        "imports_mib": round(imported),
        "peak_mib": round(_peak_mib()),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "large.jsonl"
            write(target, int(float((sys.argv[1:] or ["5"])[0]) * 1e9))
            subprocess.run([sys.executable, __file__, "--read", str(target)], check=True)
