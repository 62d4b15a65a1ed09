"""The peer: seconds a step of TRL's GRPOTrainer on this machine, as JSON lines.

TRL is no dependency of ours. It goes into a folder of its own, over our environment's torch:
    pip install --no-deps --target .trl trl==1.16.0
    PYTHONPATH=.trl python bench/peer_trl.py --model configs/local/demo/model \\
        --prompts configs/local/demo/prompts.jsonl --num-prompts 64 --out trl.json

As good as it fairly gets: no gradient checkpointing, no KL term (beta 0), one update per batch, the
whole step generated at once; --micro-batch and --precision are to be chosen by whoever compares.
Generation is transformers', not TRL's vLLM mode (not tried here). What differs from ours:
lengths are sampled, so compare `completion_tokens` beside the seconds.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


def arguments() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL: prompt, answer")
    parser.add_argument("--num-prompts", type=int, default=16, help="per step")
    parser.add_argument("--num-samples", type=int, default=8, help="per prompt")
    parser.add_argument("--max-tokens", type=int, default=64, help="of a response")
    parser.add_argument("--micro-batch", type=int, default=0, help="samples; 0: the whole step")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--num-steps", type=int, default=6, help="the first is a warm-up")
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    return parser.parse_args()


def run(given: argparse.Namespace) -> list[dict[str, float]]:
    """Train and return a row per step: seconds, samples/s and generated tokens."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(given.num_threads)
    rows: list[dict[str, float]] = []
    num_samples = given.num_prompts * given.num_samples
    tokens: list[int] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            tokens.clear()
            self.started = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.monotonic() - self.started
            speed = num_samples / seconds
            step = {"step_s": seconds, "samples_per_s": speed, "completion_tokens": sum(tokens)}
            rows.append(step)

    def reward(completions: list[str], answer: list[str], **others: Any) -> list[float]:
        tokens.extend(len(ids) for ids in others["completion_ids"])
        return [float(a in c) for c, a in zip(completions, answer, strict=True)]

    lines = [json.loads(line) for line in given.prompts.read_text().splitlines()]
    data = Dataset.from_list([{"prompt": x["prompt"], "answer": x["answer"]} for x in lines])
    tokenizer = AutoTokenizer.from_pretrained(given.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.precision))
    micro_batch = given.micro_batch or num_samples
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=num_samples // micro_batch,
            num_generations=given.num_samples,
            max_completion_length=given.max_tokens,
            max_steps=given.num_steps,
            learning_rate=given.lr,
            beta=0.0,
            num_iterations=1,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            seed=0,
        )
        GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[Clock()],
        ).train()
    return rows


def main() -> None:
    """Run and write the JSON."""
    given = arguments()
    rows = run(given)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
    given.out.write_text(json.dumps({"settings": settings, "steps": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
