"""Hugging Face causal LMs as policies: token log-probs, and the adapter w.

Used by `learner`; nothing here knows of Ray, vLLM or DeepSpeed.
"""

from coop_rl.models.adapter import Adapter, adapter_shapes
from coop_rl.models.head import TokenScores
from coop_rl.models.loading import DTYPES, load_causal_lm, load_skeleton
from coop_rl.models.policy import PolicyModel, checkpoint_name

__all__ = [
    "DTYPES",
    "Adapter",
    "PolicyModel",
    "TokenScores",
    "adapter_shapes",
    "checkpoint_name",
    "load_causal_lm",
    "load_skeleton",
]
