r"""`sft`: demonstrations alone, mix = 0; nothing is sampled for training.

    theta <- theta + optimiser( g^SFT )

Source: the SFT baseline of BRIDGE, arXiv 2509.06948, section 5.
"""

from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import ReweightedRl
from coop_rl.types import Guidance, Objective


class Sft(Method):
    """SFT at every step; its estimator is never asked."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_SFT."""
        return Objective(rl_weight=0.0, sft_weight=1.0)


def build(config: RunConfig) -> Method:
    """Build the method."""
    return Sft(build_estimator(ReweightedRl(), config.rollout.max_tokens))
