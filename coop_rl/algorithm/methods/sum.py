r"""`sum`: both losses in every step, L_RL + mu * L_SFT; no adapter, no shadow.

    theta <- theta + optimiser( g^RL + mu g^SFT )

Source: the rival "sum" of BRIDGE, arXiv 2509.06948, section 5, which states no mu; 1 here.
"""

from coop_rl.algorithm.methods.base import Method
from coop_rl.config.rivals import SumMethod
from coop_rl.types import Guidance, Objective


class Sum(Method[SumMethod]):
    """RL and SFT at every step."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_RL + mu * L_SFT."""
        return Objective(rl_weight=1.0, sft_weight=self.section.mu)
