"""Hugging Face causal LMs as policies: token log-probs, the adapter w, and its PEFT export.

Used by `learner`; nothing here knows of Ray, vLLM or DeepSpeed.
"""

from coop_rl.models.adapter import Adapter, adapter_shapes
from coop_rl.models.head import TokenScores
from coop_rl.models.loading import load_causal_lm, load_skeleton
from coop_rl.models.peft_export import save_peft
from coop_rl.models.policy import PolicyModel, checkpoint_name

__all__ = [
    "Adapter",
    "PolicyModel",
    "TokenScores",
    "adapter_shapes",
    "checkpoint_name",
    "load_causal_lm",
    "load_skeleton",
    "save_peft",
]
