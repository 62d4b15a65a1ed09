"""Useful tokens in packed batches and tokens over ranks: `python bench/packing.py`.

Random batches of 64 prompts x 8 samples, lengths uniform (8 to 64) or long-tailed (log-normal,
median 200, cut at 1,024), for 1, 2 and 4 ranks, packed for the 0.8 M and the 135 M model. Useful is
what is no padding among all places of all ranks; the balance is the most tokens of a rank over the
mean. Nothing is timed. Writes bench/results.d/packing.json.
"""

import math
import random
import sys
from collections.abc import Callable

from report import Measure, of_ratios, save

from coop_rl.algorithm.packing import PackShape, pack, useful_share
from coop_rl.types import PackedBatch, TokenSample

NUM_PROMPTS, NUM_SAMPLES, REPEATS, LIMIT = 64, 8, 10, 16384
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


def main() -> None:
    """Pack, write, show."""
    measures: list[Measure] = []
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
    for measured in measures:
        sys.stdout.write(f"{measured.name}: {measured.ratio:.3f} {measured.is_met}\n")
    save("packing", measures)


if __name__ == "__main__":
    main()
