r"""`alternate`: a step of RL, a step of SFT, and so on, on all of theta; no adapter, no shadow.

    theta <- theta + optimiser( g^RL )                           at even k
    theta <- theta + optimiser( g^SFT ), rate r * learner.lr     at odd k

One optimiser for both, as one model has. Source: the rival "alternating" of BRIDGE, arXiv
2509.06948, section 5.
"""

from coop_rl.algorithm.gain import GainSettings
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import AlternateMethod
from coop_rl.types import Objective


def build(config: RunConfig) -> Method:
    """Build the method from its section."""
    assert isinstance(config.method, AlternateMethod)
    objectives = (
        Objective(rl_weight=1.0, sft_weight=0.0),
        Objective(rl_weight=0.0, sft_weight=1.0, lr_scale=config.method.sft_lr_scale),
    )
    return Method(
        uses_shadow=False,
        normalize_by_std=config.method.rl.normalize_by_std,
        gain=GainSettings.from_config(config),
        objective=lambda step: objectives[step % 2],
    )
