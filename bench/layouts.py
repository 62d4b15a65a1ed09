"""Seconds of a forward and backward pass by how sequences lie in lanes, one thread, fp32.

    python bench/layouts.py MODEL PROMPTS SAMPLES PROMPT_TOKENS MIN MAX VOCABULARY

    python bench/layouts.py configs/local/demo/model 32 8 12 15 26 30
    python bench/layouts.py models/smollm2-135m-instruct 2 8 40 8 64 30000

Where `algorithm.lanes.ATTENTIONS_PER_HIDDEN` comes from, and the proof that what `cost` picks is
fast.
"""

import random
import sys
import time

import torch
from transformers import PreTrainedModel

from coop_rl.algorithm.lanes import BatchRow, Lanes, Tree, cut, grow_trees, lay_out
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.models import PolicyModel, load_causal_lm
from coop_rl.types import MicroBatch, TokenSample

REPEATS, LIMIT = 4, 16384


def rows(arguments: list[int]) -> list[BatchRow]:
    """Return random rows."""
    num_prompts, num_samples, prompt_tokens, low, high, vocabulary = arguments
    draw = random.Random(0)
    found: list[BatchRow] = []
    for _ in range(num_prompts):
        prompt = tuple(draw.randrange(1, vocabulary) for _ in range(prompt_tokens))
        for _ in range(num_samples):
            response = [draw.randrange(1, vocabulary) for _ in range(draw.randint(low, high))]
            found.append(
                BatchRow(len(found), prompt, tuple(response), 1.0, (-1.0,) * len(response))
            )
    return found


def dense(trees: list[Tree], lanes_of: int) -> list[Lanes]:
    """Put a number of trees behind each other in each lane."""
    ordered = sorted(trees, key=lambda tree: -tree.length)
    return [[ordered[i : i + lanes_of] for i in range(0, len(ordered), lanes_of)]]


def ours(found: list[BatchRow], hidden_size: int) -> list[MicroBatch]:
    """Return what the product packs."""
    samples = [
        TokenSample(row.prompt_ids, row.response_ids, row.behaviour_log_probs, row.advantage)
        for row in found
    ]
    return list(pack(samples, [], PackShape(1, LIMIT, hidden_size=hidden_size)).rl[0])


def seconds(policy: PolicyModel, micros: list[MicroBatch]) -> float:
    """Return the shortest of a few passes."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for micro in micros:
            policy(*micro.grid).log_prob_T.sum().backward()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    """Print a line for each way."""
    torch.set_num_threads(1)
    model: PreTrainedModel = load_causal_lm(sys.argv[1], torch.float32)
    policy, found = PolicyModel(model, logits_chunk=900), rows([int(a) for a in sys.argv[2:8]])
    hidden_size = int(model.config.hidden_size)
    singles, trees = grow_trees(found, 0), grow_trees(found, 1024)
    ways = {
        "padded": cut(singles, LIMIT, "padded", hidden_size),
        "2 in a lane": dense(singles, 2),
        "8 in a lane": dense(singles, 8),
        "trees": dense(trees, 1),
        "2 trees in a lane": dense(trees, 2),
        "8 trees in a lane": dense(trees, 8),
    }
    laid = {name: [lay_out(lanes) for lanes in way] for name, way in ways.items()}
    laid["as packed"] = ours(found, hidden_size)
    for name, micros in laid.items():
        places, tokens = (sum(getattr(m, f"num_{x}") for m in micros) for x in ("places", "tokens"))
        shape = tuple(micros[0].grid.token_ids_KL.shape)
        sys.stdout.write(
            f"{name:18} {seconds(policy, micros):7.3f} s, "
            f"{places} places, {tokens} tokens, {shape}\n"
        )


if __name__ == "__main__":
    main()
