r"""`alternate`: a step of RL, a step of SFT, and so on, on all of theta; no adapter, no shadow.

    theta <- theta + optimiser( g^RL )                           at even k
    theta <- theta + optimiser( g^SFT ), rate r * learner.lr     at odd k

One optimiser for both, as one model has. Source: the rival "alternating" of BRIDGE, arXiv
2509.06948, section 5.
"""

from coop_rl.algorithm.estimators import RlEstimator, build_estimator
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import AlternateMethod
from coop_rl.types import Guidance, Objective


class Alternate(Method):
    """RL at even steps, SFT at odd ones."""

    def __init__(self, estimator: RlEstimator, sft_lr_scale: float) -> None:
        super().__init__(estimator)
        self._turns = (
            Objective(rl_weight=1.0, sft_weight=0.0),
            Objective(rl_weight=0.0, sft_weight=1.0, lr_scale=sft_lr_scale),
        )

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return whose turn it is."""
        return self._turns[step % 2]


def build(config: RunConfig) -> Method:
    """Build the method from its section."""
    method = config.method
    assert isinstance(method, AlternateMethod)
    return Alternate(build_estimator(method.rl, config.rollout.max_tokens), method.sft_lr_scale)
