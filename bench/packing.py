"""Useful tokens in packed batches and tokens over ranks: `python bench/packing.py`.

Random batches of 64 prompts x 8 samples, lengths uniform (8 to 64) or long-tailed (log-normal,
median 200, cut at 1,024), for 1, 2 and 4 ranks, packed for the 0.8 M and the 135 M model. Useful is
what is no padding among all places of all ranks; the balance is the most tokens of a rank over the
mean. Then what a step's passes cost (as `algorithm.lanes` reckons it) when its
RL and SFT rows lie in the same micro-batches, over apart; and of the shipped GPU configs how many
passes a rank makes, as packed and with a CPU's costs, and the CPU seconds of packing (median of
five). Writes bench/results.d/packing.json.
"""

import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from report import Detail, Measure, of_ratios, save

from coop_rl.algorithm.lanes import ATTENTIONS_PER_HIDDEN, PASS_COST_TOKENS
from coop_rl.algorithm.packing import PackShape, pack, useful_share
from coop_rl.config import load_config
from coop_rl.planning.shape import shape_of
from coop_rl.types import PackedBatch, TokenSample

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = (
    "cluster/1-gpu", "cluster/8-gpus", "cluster/16-gpus", "cluster/64-gpus", "cluster/256-gpus",
    "paper/qwen2.5-3b", "paper/llama-3.2-3b-instruct", "paper/qwen3-8b-base",
)  # fmt: skip
NUM_PROMPTS, NUM_SAMPLES, REPEATS, LIMIT = 64, 8, 10, 16384
PACKINGS = 5
Draw = Callable[[random.Random], int]
LENGTHS: dict[str, Draw] = {
    "uniform": lambda draw: draw.randint(8, 64),
    "long-tailed": lambda draw: max(1, min(1024, round(draw.lognormvariate(math.log(200), 1)))),
}
HIDDEN = {"0.8 M": 128, "135 M": 576}


def samples(seed: int, length: Draw) -> list[TokenSample]:
    """Return a step's rollouts."""
    draw, found = random.Random(seed), []
    for _ in range(NUM_PROMPTS):
        prompt = tuple(draw.randrange(1, 1000) for _ in range(draw.randint(20, 120)))
        for _ in range(NUM_SAMPLES):
            ids = tuple(draw.randrange(1, 1000) for _ in range(length(draw)))
            found.append(TokenSample(prompt, ids, (-1.0,) * len(ids), 1.0))
    return found


def balance(batch: PackedBatch) -> float:
    """Return the most tokens of a rank over the mean."""
    tokens = [sum(micro.num_tokens for micro in rank) for rank in batch.rl]
    return max(tokens) * len(tokens) / sum(tokens)


def reckon(batch: PackedBatch, hidden_size: int) -> int:
    """Return what a rank's passes cost, in attentions to one token."""
    grids = [micro.grid.token_ids_KL for micro in batch.rl[0]]
    per_pass = PASS_COST_TOKENS * ATTENTIONS_PER_HIDDEN * hidden_size
    return sum(
        g.numel() * (ATTENTIONS_PER_HIDDEN * hidden_size + g.shape[1]) + per_pass for g in grids
    )


def join(num_prompts: int, hidden_size: int) -> Measure:
    """Compare RL and SFT rows in the same micro-batches with apart."""
    shape, ratios = PackShape(1, LIMIT, hidden_size=hidden_size), []
    for seed in range(REPEATS):
        rollouts = samples(seed, LENGTHS["uniform"])[: num_prompts * NUM_SAMPLES]
        # As many demonstrations as prompts, each with a prompt of its own.
        shown = samples(seed + REPEATS, LENGTHS["uniform"])[::NUM_SAMPLES][:num_prompts]
        apart = sum(reckon(pack(rows, [], shape), hidden_size) for rows in (rollouts, shown))
        ratios.append(reckon(pack(rollouts + shown, [], shape), hidden_size) / apart)
    name = f"RL and SFT rows together over apart, {num_prompts} prompts, H {hidden_size}"
    return of_ratios(name, ratios, higher_is_better=False)


def shipped(name: str) -> Measure:
    """Compare the passes of a config's step with those that a CPU's costs would make of it."""
    config = load_config(CONFIGS / f"{name}.yaml", [])
    shape = PackShape.from_config(config, hidden_size=shape_of(config.model.path).hidden)
    draw, most, rollouts = random.Random(0), config.rollout.max_tokens, []
    for number in range(config.prompts.per_step):
        prompt = (number + 1,) * draw.randint(80, 240)
        for _ in range(config.rollout.samples_per_prompt):
            length = min(most, max(8, int(draw.lognormvariate(math.log(most / 3), 0.6))))
            rollouts.append(TokenSample(prompt, (7,) * length, (-1.0,) * length, 1.0))
    times = []
    for _ in range(PACKINGS):
        gc.collect()  # of the rollouts made above and the batch before, which no packing pays for
        began = time.process_time()
        ours = pack(rollouts, [], shape)
        times.append(time.process_time() - began)
    as_on_cpu = pack(rollouts, [], replace(shape, layout="trees", pass_cost=PASS_COST_TOKENS))
    passes, before = len(ours.rl[0]), len(as_on_cpu.rl[0])
    detail: Detail = {
        "ours": passes,
        "reference": before,
        "unit": "passes",
        "useful": useful_share([ours]),
        "seconds": statistics.median(times),
    }
    sys.stdout.write(f"{name}: {detail}\n")
    return of_ratios(
        f"passes over those with a CPU's costs, {name}",
        [passes / before],
        higher_is_better=False,
        detail=detail,
    )


def main() -> None:
    """Pack, write, show."""
    measures: list[Measure] = [shipped(name) for name in SHIPPED]
    for kind, length in LENGTHS.items():
        for num_ranks in (1, 2, 4):
            for model, hidden in HIDDEN.items():
                shape = PackShape(num_ranks, LIMIT, hidden_size=hidden)
                batches = [pack(samples(seed, length), [], shape) for seed in range(REPEATS)]
                where = f"{kind}, {num_ranks} ranks, {model}"
                useful = [useful_share([batch]) for batch in batches]
                measures.append(of_ratios(f"useful tokens, {where}", useful, 0.95))
                spread = [balance(batch) for batch in batches]
                measures.append(
                    of_ratios(
                        f"most over mean tokens, {where}", spread, 1.05, higher_is_better=False
                    )
                )
    measures += [join(number, hidden) for number in (8, 32, 64) for hidden in HIDDEN.values()]
    for measured in measures:
        sys.stdout.write(
            f"{measured.name}: {measured.ratio:.3f} [{measured.low:.3f}-{measured.high:.3f}]\n"
        )
    save("packing", measures)


if __name__ == "__main__":
    main()
