r"""`rl`: RL alone ("RL-zero"), mix = 1; no adapter, no shadow.

    theta <- theta + optimiser( g^RL )

Source: the RL baseline of BRIDGE, arXiv 2509.06948, section 5; estimators are in `estimators`.
"""

from coop_rl.algorithm.methods.base import Method
from coop_rl.config.rivals import RlMethod
from coop_rl.types import Guidance, Objective


class Rl(Method[RlMethod]):
    """RL at every step."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_RL."""
        return Objective(rl_weight=1.0, sft_weight=0.0)
