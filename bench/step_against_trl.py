"""RL-only step against TRL's GRPOTrainer: samples/s on the same prompts, sizes and threads.

TRL is no dependency of ours; it goes into a folder of its own, over our environment's torch:
    pip install --no-deps --target .trl trl==1.16.0
    python bench/step_against_trl.py [--trl .trl] [--cases demo smollm2 smollm2-best] [--steps 5]

| case | model | step | precision |
|---|---|---|---|
| demo | 0.8 M | 64 prompts x 8 samples x at most 64 tokens | fp32 |
| smollm2 | 135 M | 16 x 8 x 64 | fp32 |
| smollm2-best | 135 M | 16 x 8 x 64 | bf16: what each offers |

Ours is a whole run of `method.kind=rl` on Ray, vLLM and DeepSpeed, lag 0; its step holds sampling,
scoring, training, weight sync and metrics. TRL's step is what its trainer does between
on_step_begin and on_step_end, sampling with transformers included. Rate 1e-6 in both, so that the
policy, and with it the lengths, stay as they are. One run each; median of the steps after the first
(TRL) or the first three (ours). Writes bench/results.d/step_against_trl.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jobs import LEAN, ROOT, rows_of
from report import Measure, save

from coop_rl.config import load_config
from coop_rl.data.load import load_run_data

NUM_SAMPLES, LR = 8, "1e-6"


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison."""

    config: str
    num_prompts: int
    max_tokens: int
    dtype: str
    micro_batch: int
    """Samples that TRL takes at once; a choice, other sizes have not been compared."""
    floor: float


CASES = {
    "demo": Case("configs/local/demo.yaml", 64, 64, "float32", 512, 1.5),
    "smollm2": Case("configs/local/smollm2-chain-sum.yaml", 16, 64, "float32", 32, 1.4),
    "smollm2-best": Case("configs/local/smollm2-chain-sum.yaml", 16, 64, "bfloat16", 32, 2.0),
}


def ours(case: Case, steps: int) -> dict[str, list[float]]:
    """Return seconds and response tokens of each step."""
    overrides = (
        "method.kind=rl",
        *LEAN,
        f"run.num_steps={steps + 3}",
        f"prompts.per_step={case.num_prompts}",
        f"rollout.samples_per_prompt={NUM_SAMPLES}",
        f"rollout.max_tokens={case.max_tokens}",
        f"rollout.dtype={case.dtype}",
        f"model.dtype={case.dtype}",
        "rollout.max_num_seqs=512",
        # At lag 0 they take turns, so each may have both cores.
        "placement.rollout.cpus=2",
        "placement.learner.cpus=0",
        "learner.num_threads=2",
        f"learner.lr={LR}",
    )
    rows = rows_of(overrides, {}, case.config)
    return {
        "seconds": [row["time/step_s"] for row in rows],
        "tokens": [row["tokens/generated"] for row in rows],
    }


def trl(case: Case, steps: int, packages: Path) -> dict[str, list[float]]:
    """Return the same of TRL."""
    config = load_config(Path(case.config), [])
    data = load_run_data(config).prompts
    with tempfile.TemporaryDirectory() as folder:
        prompts, out = Path(folder) / "prompts.jsonl", Path(folder) / "out.json"
        found = [data[row] for row in range(min(len(data), case.num_prompts * (steps + 1)))]
        lines = [json.dumps({"prompt": p.text, "answer": p.answer}) for p in found]
        prompts.write_text("\n".join(lines) + "\n")
        arguments = {
            "model": config.model.path,
            "prompts": prompts,
            "num-prompts": case.num_prompts,
            "num-samples": NUM_SAMPLES,
            "max-tokens": case.max_tokens,
            "micro-batch": case.micro_batch,
            "precision": case.dtype,
            "num-steps": steps + 1,
            "lr": LR,
            "out": out,
        }
        given = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        environment = os.environ | {"PYTHONPATH": str(packages.absolute())}
        command = [sys.executable, str(Path(__file__).parent / "peer_trl.py"), *given]
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        rows = json.loads(out.read_text())["steps"][1:]
    return {
        "seconds": [row["step_s"] for row in rows],
        "tokens": [row["completion_tokens"] for row in rows],
    }


def compare(name: str, steps: int, packages: Path) -> Measure:
    """Run both."""
    case = CASES[name]
    own, peer = ours(case, steps), trl(case, steps, packages)
    num_samples = case.num_prompts * NUM_SAMPLES
    middle = median(own["seconds"])
    ratios = sorted(seconds / middle for seconds in peer["seconds"])
    return Measure(
        f"RL step over TRL's, {name}",
        median(ratios),
        min(peer["seconds"]) / max(own["seconds"]),
        max(peer["seconds"]) / min(own["seconds"]),
        case.floor,
        detail={
            "ours": num_samples / middle,
            "reference": num_samples / median(peer["seconds"]),
            "unit": "samples/s",
            "our_tokens": median(own["tokens"]),
            "trl_tokens": median(peer["tokens"]),
        },
    )


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trl", type=Path, default=ROOT / ".trl")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    if not (given.trl / "trl").is_dir():
        sys.exit(f"no TRL in {given.trl}: pip install --no-deps --target {given.trl} trl==1.16.0")
    measures = []
    for name in given.cases:
        measures.append(compare(name, given.steps, given.trl))
        sys.stdout.write(f"{measures[-1]}\n")
        sys.stdout.flush()
        save("step_against_trl", measures)


if __name__ == "__main__":
    main()
