r"""`alternate`: a step of RL, a step of SFT, and so on, on all of theta; no adapter, no shadow.

    theta <- theta + optimiser( g^RL )                           at even k
    theta <- theta + optimiser( g^SFT ), rate r * learner.lr     at odd k

One optimiser for both, as one model has. Source: the rival "alternating" of BRIDGE, arXiv
2509.06948, section 5.
"""

from coop_rl.algorithm.methods.base import Method
from coop_rl.config.rivals import AlternateMethod
from coop_rl.types import Guidance, Objective


class Alternate(Method[AlternateMethod]):
    """RL at even steps, SFT at odd ones."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return whose turn it is."""
        if step % 2 == 0:
            return Objective(rl_weight=1.0, sft_weight=0.0)
        return Objective(rl_weight=0.0, sft_weight=1.0, lr_scale=self.section.sft_lr_scale)
