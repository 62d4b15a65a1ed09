"""Check at a learner's start that packing changes no log-prob of this model.

Sequences in one lane must not see each other, and each must see what it sees alone. Whether they do
depends on the model's attention and on what else carries state along a lane (windows, recurrent
layers), which no config key tells for all models: so a few sequences, one of them longer than the
usual windows, are scored both ways, in one lane and alone.
"""

import random

import torch

from coop_rl.algorithm.lanes import BatchRow, Layout, Tree, grow_trees, lay_out
from coop_rl.errors import ModelError
from coop_rl.learner.engine import TrainingEngine

PROMPTS = ((1, 2, 3, 4, 5, 6), (7, 8, 9))
RESPONSES = ((10, 11, 12), (13, 14), (15, 16, 17, 18))
"""Token ids that every vocabulary has; every response is scored after every prompt."""
LONG_ROW_TOKENS, LONG_ROW_TOKENS_CPU = 4_200, 640
"""Length of one row more: above the windows of 4,096, and on CPUs, where such a row would take
minutes, of 512 tokens."""
FP32_TOLERANCE_NATS, BF16_TOLERANCE_NATS = 1e-3, 0.1
"""Largest mean difference: what rounding makes is below, what seeing a neighbour makes above."""


@torch.no_grad()
def check_packing(engine: TrainingEngine, layout: Layout, dtype: torch.dtype, longest: int) -> None:
    """Compare log-probs in one lane with those of sequences alone; all ranks call it.

    Args:
        engine: Holds the model.
        layout: How sequences will lie in lanes.
        dtype: The model's compute type.
        longest: Most tokens that a sequence of the run may have.

    Raises:
        ModelError: They differ.
    """
    if layout == "padded":
        return
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        (prompt, response) for prompt in PROMPTS for response in RESPONSES
    ]
    pairs.append((PROMPTS[0], _long_response(longest - len(PROMPTS[0]))))
    rows = [BatchRow(i, prompt, response) for i, (prompt, response) in enumerate(pairs)]
    packed = grow_trees(rows, longest=1024 if layout in ("trees", "varlen") else 0)
    together = engine(lay_out([packed]).grid).log_prob_T
    order = [row for tree in packed for row in tree.rows]
    alone = engine(lay_out([[Tree((row,))] for row in order]).grid).log_prob_T
    difference = float((together - alone).abs().mean())
    tolerance = FP32_TOLERANCE_NATS if dtype == torch.float32 else BF16_TOLERANCE_NATS
    # Negated, so that NaN fails too.
    if not difference <= tolerance:
        raise ModelError(
            f"packing changes this model's log-probs by {difference:.2g} nats: its layers see "
            "a window only, or carry something from one sequence to the next; set learner.packing "
            "padded"
        )


def _long_response(longest: int) -> tuple[int, ...]:
    """Return a response without a period, so that a token that is not seen makes a difference."""
    usual = LONG_ROW_TOKENS if torch.cuda.is_available() else LONG_ROW_TOKENS_CPU
    count = max(1, min(longest, usual))
    return tuple(random.Random(0).choices(range(1, 19), k=count))
