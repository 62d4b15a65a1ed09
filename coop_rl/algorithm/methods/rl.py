r"""`rl`: RL alone ("RL-zero"), mix = 1; no adapter, no shadow.

    theta <- theta + optimiser( g^RL )

Source: the RL baseline of BRIDGE, arXiv 2509.06948, section 5; the estimator is in `losses`.
"""

from coop_rl.algorithm.gain import GainSettings
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import RlMethod
from coop_rl.types import Objective


def build(config: RunConfig) -> Method:
    """Build the method from its section."""
    assert isinstance(config.method, RlMethod)
    objective = Objective(rl_weight=1.0, sft_weight=0.0)
    return Method(
        uses_shadow=False,
        normalize_by_std=config.method.rl.normalize_by_std,
        gain=GainSettings.from_config(config),
        objective=lambda _step: objective,
    )
