r"""`bridge`: cooperative SFT and RL, arXiv 2509.06948, equations 7-9 (docs/algorithm.md section 3).

    theta     <- theta     + optimiser( (1 - lambda) g_theta^SFT + lambda g_theta^RL )
    theta-hat <- theta-hat + optimiser( g-hat_theta^RL )
    w         <- w + optimiser_w( (1 - lambda_w) g_w^SFT + lambda_w (g_w^RL - g-hat_w^RL) )

all gradients taken at step k before any update. The printed eq. (9) has a minus in the second
line; ascent is right. Every `shadow.resync_every` = m steps, after the gradients of step k, the
second line becomes  theta-hat_{k+1} <- theta_k + optimiser(g_theta^RL at theta_k)  with a copy of
theta's optimiser state, so theta-hat is always 1...m RL-only steps from a theta of the chain.
"""

from coop_rl.algorithm.gain import GainSettings
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import BridgeMethod
from coop_rl.config.sizes import has_shadow
from coop_rl.types import Objective


def build(config: RunConfig) -> Method:
    """Build the method from the sections `method`, `shadow`, `meta` and `gain`."""
    assert isinstance(config.method, BridgeMethod)
    mix, every, uses_shadow = config.mix, config.shadow.resync_every, has_shadow(config)

    def objective(step: int) -> Objective:
        is_due = uses_shadow and every is not None and step > 0 and step % every == 0
        return Objective(rl_weight=mix, sft_weight=1.0 - mix, resync_shadow=is_due)

    return Method(
        uses_shadow=uses_shadow,
        normalize_by_std=config.method.rl.normalize_by_std,
        gain=GainSettings.from_config(config),
        objective=objective,
    )
