r"""`sft`: demonstrations alone, mix = 0; nothing is sampled for training.

    theta <- theta + optimiser( g^SFT )

Source: the SFT baseline of BRIDGE, arXiv 2509.06948, section 5.
"""

from coop_rl.algorithm.methods.base import Method
from coop_rl.config.rivals import SftMethod
from coop_rl.types import Guidance, Objective


class Sft(Method[SftMethod]):
    """SFT at every step; its estimator is never asked."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_SFT."""
        return Objective(rl_weight=0.0, sft_weight=1.0)
