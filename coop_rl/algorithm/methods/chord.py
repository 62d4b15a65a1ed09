r"""`chord`: one loss whose SFT share mu fades, optionally with a weight for every token.

    L = (1 - mu_k) L_RL + mu_k L_SFT
    mu_k = peak * k / warmup                                               k < warmup
         = valley + (peak - valley) (1 + cos(pi (k - warmup) / decay)) / 2   k < warmup + decay
         = valley                                                          later

With phi (`losses`, section 3.3): L_SFT = - mean_t sg[ p_t (1 - p_t) ] log p_t, so
tokens the policy is sure of either way count little.

Source: CHORD, arXiv 2508.11408, and its authors' code for the cosine. Its settings: without phi
warmup 0, decay 200, peak 0.9, valley 0.05; with phi mu = 0.1 throughout.
"""

import math

from coop_rl.algorithm.methods.base import Method
from coop_rl.config.rivals import ChordMethod
from coop_rl.types import DemonstrationTerm, Guidance, Objective


def sft_share(step: int, method: ChordMethod) -> float:
    """Return mu_k."""
    peak, valley, warmup = method.peak, method.valley, method.mu_warmup_steps
    if step < warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / method.mu_decay_steps)
    return valley + (peak - valley) * (1.0 + math.cos(math.pi * progress)) / 2.0


class Chord(Method[ChordMethod]):
    """RL and SFT at every step, with a fading share of SFT."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return (1 - mu) L_RL + mu L_SFT."""
        mu = sft_share(step, self.section)
        term = DemonstrationTerm("phi" if self.section.phi else "nll")
        return Objective(rl_weight=1.0 - mu, sft_weight=mu, terms=(term,))
