"""Check at a learner's start that packing changes no log-prob of this model.

Sequences in one lane must not see each other. Whether they do depends on the model's attention and
on what else carries state along a lane (sliding windows, recurrent layers), which no config key
tells for all models: so a few sequences are scored both ways, in one lane and alone.
"""

import torch
from transformers import PreTrainedModel

from coop_rl.algorithm.lanes import BatchRow, Layout, Tree, grow_trees, lay_out
from coop_rl.errors import ModelError
from coop_rl.learner.engine import TrainingEngine

PROMPTS = ((1, 2, 3, 4, 5, 6), (7, 8, 9))
RESPONSES = ((10, 11, 12), (13, 14), (15, 16, 17, 18))
"""Token ids that every vocabulary has; every response is scored after every prompt."""
FP32_TOLERANCE_NATS, BF16_TOLERANCE_NATS = 1e-3, 0.1
"""Largest mean difference: what rounding makes is below, what seeing a neighbour makes above."""


def check_window(causal_lm: PreTrainedModel, layout: Layout, micro_batch_tokens: int) -> None:
    """Refuse lanes that a sliding window would end in: the mask of a lane knows no windows.

    Raises:
        ModelError: The model's window is shorter than lanes may be.
    """
    settings = causal_lm.config.to_dict()
    window = settings.get("sliding_window") if settings.get("use_sliding_window", True) else None
    if layout in ("trees", "lanes") and window is not None and window < micro_batch_tokens:
        raise ModelError(
            f"this model attends to a window of {window} tokens, lanes may have "
            f"learner.micro_batch_tokens {micro_batch_tokens}; set learner.packing padded, or at "
            f"most {window} tokens"
        )


@torch.no_grad()
def check_packing(engine: TrainingEngine, layout: Layout, dtype: torch.dtype) -> None:
    """Compare log-probs in one lane with those of sequences alone; all ranks call it.

    Args:
        engine: Holds the model.
        layout: How sequences will lie in lanes.
        dtype: The model's compute type.

    Raises:
        ModelError: They differ.
    """
    if layout == "padded":
        return
    pairs = [(prompt, response) for prompt in PROMPTS for response in RESPONSES]
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
            f"packing changes this model's log-probs by {difference:.2g} nats: its layers carry "
            "something from one sequence to the next; set learner.packing padded"
        )
