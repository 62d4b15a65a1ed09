"""Learner tokens/s against a bare PyTorch loop on the same packed batches, one rank.

    python bench/learner.py [MODEL] [ROUNDS]      writes bench/results.d/learner.json

Both take RL steps of SmolLM2-135M (4 prompts x 8 samples of at most 64 tokens, random ids and
lengths): forward and backward over the same grids, clipping, AdamW. The bare loop is what one
writes by hand: whole logits, no adapter, no statistics, no ZeRO; its optimiser is the fused AdamW
too. They take turns in one process, with the same threads; seconds a step, medians.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
from report import Detail, Measure, of_ratios, save

from coop_rl.algorithm.packing import PackShape, pack, useful_share
from coop_rl.config import RunConfig, load_config
from coop_rl.learner.build import LearnerRank
from coop_rl.models import DTYPES, load_causal_lm
from coop_rl.models.policy import visible
from coop_rl.types import BranchBatch, Objective, PackedBatch, TokenSample

CONFIG = Path("configs/local/smollm2-chain-sum.yaml")
NUM_PROMPTS, NUM_SAMPLES, MAX_TOKENS, PROMPT_TOKENS, NUM_THREADS = 4, 8, 64, 40, 2


def samples(seed: int) -> list[TokenSample]:
    """Random rollouts whose prompts come NUM_SAMPLES times."""
    generator = random.Random(seed)
    found = []
    for _ in range(NUM_PROMPTS):
        prompt = tuple(generator.randrange(1, 40_000) for _ in range(PROMPT_TOKENS))
        for _ in range(NUM_SAMPLES):
            ids = [generator.randrange(1, 40_000) for _ in range(generator.randint(8, MAX_TOKENS))]
            found.append(
                TokenSample(prompt, tuple(ids), (-10.0,) * len(ids), generator.uniform(-1, 1))
            )
    return found


def bare_steps(
    path: str, dtype: torch.dtype, lr: float, device: str = "cpu"
) -> Callable[[PackedBatch], None]:
    """Return a step as one writes it by hand."""
    model = load_causal_lm(path, dtype).to(device)
    # fp32 masters, as the learner has in bf16.
    masters = [p.detach().float().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(batch: PackedBatch) -> None:
        for micro in batch.rl[0]:
            grid = micro.grid.to(torch.device(device))
            mask = None
            if grid.sequence_KL is not None and grid.response_KL is not None:
                mask = visible(grid.sequence_KL, grid.response_KL)[:, None]
            hidden = model.get_decoder()(
                input_ids=grid.token_ids_KL,
                position_ids=grid.position_ids_KL,
                attention_mask=mask,
                use_cache=False,
            ).last_hidden_state.flatten(0, 1)[grid.source_T]
            log_prob_TV = model.get_output_embeddings()(hidden).float().log_softmax(-1)
            log_prob_T = log_prob_TV.gather(1, grid.target_T[:, None])[:, 0]
            behaviour_T = micro.behaviour_log_prob_T.to(device)
            ratio_T = (log_prob_T.detach() - behaviour_T).exp().clamp(max=2.0)
            advantage_T = micro.advantage_B[micro.row_T].to(device)
            loss = -(ratio_T * advantage_T * log_prob_T).sum() / batch.num_rl_tokens
            loss.backward()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            parameter.data.copy_(master)
            parameter.grad = None

    return step


def configure(model: str, dtype: str) -> RunConfig:
    """RL alone on one rank, as the bench against TRL has it."""
    return load_config(
        CONFIG,
        [
            f"model.path={model}",
            f"model.dtype={dtype}",
            "method.kind=rl",
            f"learner.num_threads={NUM_THREADS}",
            "learner.micro_batch_tokens=16384",
            "learner.warmup_steps=0",
            "learner.grad_stats_every=0",
        ],
    )


def our_steps(config: RunConfig) -> Callable[[PackedBatch], None]:
    """Return the learner's step."""
    rank = LearnerRank(config, "joint", 0)
    learner = rank.start(*rank.open_world("127.0.0.1"))
    numbers = iter(range(10**9))

    def step(batch: PackedBatch) -> None:
        result, _ = learner.step(next(numbers), BranchBatch((batch,)), Objective(1.0, 0.0))
        assert result.updates.is_applied

    return step


def timed(
    steps: dict[str, Callable[[PackedBatch], None]], batches: Iterator[PackedBatch], rounds: int
) -> dict[str, list[float]]:
    """Return seconds a step of each, in turns; the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        batch = next(batches)
        for name, step in steps.items():
            began = time.perf_counter()
            step(batch)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def measure(model: str, dtype: str, rounds: int) -> Measure:
    """Compare both in one type."""
    config = configure(model, dtype)
    shape = replace(PackShape.from_config(config, hidden_size=576), num_ranks=1)
    batches = [pack(samples(seed), [], shape) for seed in range(rounds + 1)]
    # The longest first, as the warm-up: memory that grows in a later round would count there.
    batches.sort(key=num_tokens, reverse=True)
    steps = {
        "learner": our_steps(config),
        "bare": bare_steps(model, DTYPES[dtype], config.learner.lr),
    }
    seconds = timed(steps, iter(batches), rounds)
    ratios = [b / o for o, b in zip(seconds["learner"], seconds["bare"], strict=True)]
    tokens = [num_tokens(batch) for batch in batches[1:]]
    ours, bare = (
        median(n / s for n, s in zip(tokens, seconds[name], strict=True)) for name in seconds
    )
    useful = useful_share(batches)
    detail: Detail = {"ours": ours, "reference": bare, "unit": "tokens/s", "useful": useful}
    return of_ratios(f"learner over a bare loop, {dtype}", ratios, 0.9, detail=detail)


def num_tokens(batch: PackedBatch) -> int:
    """Return the tokens that a step computes."""
    return sum(micro.num_tokens for micro in batch.rl[0])


def main() -> None:
    """Measure both types, one process each: a process has one torch world."""
    if len(sys.argv) == 5 and sys.argv[1] == "one":
        measure_only = measure(sys.argv[2], sys.argv[4], int(sys.argv[3]))
        sys.stdout.write(json.dumps(asdict(measure_only)))
        return
    model = sys.argv[1] if len(sys.argv) > 1 else "./models/smollm2-135m-instruct"
    rounds = sys.argv[2] if len(sys.argv) > 2 else "7"
    found = []
    for dtype in DTYPES:
        command = [sys.executable, __file__, "one", model, rounds, dtype]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(Measure(**json.loads(done.stdout.splitlines()[-1])))
        sys.stdout.write(f"{found[-1]}\n")
    save("learner", found)


if __name__ == "__main__":
    main()
