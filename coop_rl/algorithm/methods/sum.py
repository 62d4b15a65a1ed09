r"""`sum`: both losses in every step, L_RL + mu * L_SFT; no adapter, no shadow.

    theta <- theta + optimiser( g^RL + mu g^SFT )

Source: the rival "sum" of BRIDGE, arXiv 2509.06948, section 5, which states no mu; 1 here.
"""

from coop_rl.algorithm.gain import GainSettings
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import SumMethod
from coop_rl.types import Objective


def build(config: RunConfig) -> Method:
    """Build the method from its section."""
    assert isinstance(config.method, SumMethod)
    objective = Objective(rl_weight=1.0, sft_weight=config.method.mu)
    return Method(
        uses_shadow=False,
        normalize_by_std=config.method.rl.normalize_by_std,
        gain=GainSettings.from_config(config),
        objective=lambda _step: objective,
    )
