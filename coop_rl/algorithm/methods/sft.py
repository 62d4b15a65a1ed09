r"""`sft`: demonstrations alone, mix = 0; nothing is sampled for training.

    theta <- theta + optimiser( g^SFT )

Source: the SFT baseline of BRIDGE, arXiv 2509.06948, section 5.
"""

from coop_rl.algorithm.gain import GainSettings
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.types import Objective


def build(config: RunConfig) -> Method:
    """Build the method from its section."""
    objective = Objective(rl_weight=0.0, sft_weight=1.0)
    return Method(
        uses_shadow=False,
        normalize_by_std=True,
        gain=GainSettings.from_config(config),
        objective=lambda _step: objective,
    )
