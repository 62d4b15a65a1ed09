"""A whole run on one GPU: tokens/s end to end, and where a step's seconds go.

    PYTHONPATH=bench python -m gpu.run [--tiny] [--out FOLDER]

A few steps of configs/cluster/1-gpu.yaml's placement on random weights of Qwen2.5-0.5B's and
1.5B's shape, the demo's sums as data: colocated, 64 prompts x 8 samples of 512 tokens; `rl`, and
`bridge` where two learners fit. Not run on a GPU yet.
"""

import json
import shutil
import statistics
import sys
from typing import Any

from coop_rl.cli import main as command
from coop_rl.planning.memory import GIB
from gpu.pieces import DEMO, Figures, Options, in_turn, options, random_model

NUM_STEPS = 4
CASES = {"rl, 0.5B": ("rl", "0.5B"), "rl, 1.5B": ("rl", "1.5B"), "bridge, 0.5B": ("bridge", "0.5B")}
ON_GPU = {
    "prompts.per_step": "64",
    "rollout.max_tokens": "512",
    "rollout.dtype": "bfloat16",
    "rollout.gpu_memory_utilization": "0.3",
    "model.dtype": "bfloat16",
    "model.max_length": "1024",
    "learner.micro_batch_tokens": "16384",
    "learner.activation_checkpointing": "true",
    "placement.rollout": "{cpus: 2, gpus: 0.4}",
    "placement.learner": "{cpus: 1, gpus: 0.3}",
    "placement.shadow": "{cpus: 1, gpus: 0.3}",
}


def measure(case: str, given: Options) -> Figures:
    """Train, and return the medians of all steps but the first."""
    kind, size = CASES[case]
    folder = given.out / f"run-{kind}-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    sets = {
        "model.path": random_model(given.out, "tiny" if given.is_tiny else size),
        "method.kind": kind,
        "run.num_steps": str(NUM_STEPS),
        "placement.colocated": "true",
        "evaluation.num_items": "4",
        "checkpoint.every": "0",
        "sync.canary_every": "1",
    }
    sets |= {"prompts.per_step": "8", "demonstrations.per_step": "8"} if given.is_tiny else {}
    sets |= ON_GPU if given.device == "cuda" else {}
    arguments = ["train", str(DEMO), "--run-dir", str(folder)]
    arguments += [f"--set={name}={value}" for name, value in sets.items()]
    if code := train(arguments):
        raise SystemExit(f"coop-rl {' '.join(arguments)} ended with {code}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in lines if "reward/mean" in row][1:]
    return {"steps": len(steps), **medians(steps)}


def train(arguments: list[str]) -> int | str | None:
    """Run the command in this process; return its exit code."""
    sys.argv = ["coop-rl", *arguments]
    try:
        command()
    except SystemExit as ended:
        return ended.code
    return 0


def medians(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of every time and speed over the steps."""
    names = [n for n in steps[0] if n.startswith(("time/", "perf/", "sync/"))]
    return {n: statistics.median(row[n] for row in steps if n in row) for n in names}


def main() -> None:
    """Measure every case, each in a process of its own."""
    given = options(__doc__)
    if given.case is None:
        free = shutil.disk_usage(given.out).free / GIB
        sys.stdout.write(f"run: {free:.0f} GiB free at {given.out}\n")
        in_turn("gpu.run", given, list(CASES))
    else:
        sys.stdout.write(json.dumps(measure(given.case, given)) + "\n")


if __name__ == "__main__":
    main()
