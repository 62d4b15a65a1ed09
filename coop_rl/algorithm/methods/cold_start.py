r"""`cold_start`: SFT first, RL after; the point of the switch is found by validation.

    theta <- theta + optimiser( g^SFT )     while the validation NLL falls, for E epochs at most
    theta <- theta + optimiser( g^RL )      from then on

The NLL of demonstrations kept from training is measured every `check_every` steps; `patience`
measurements in a row without a new minimum end the first phase for good. One optimiser throughout.

Source: the usual two-stage recipe, the rival "cold start" of BRIDGE, arXiv 2509.06948, section 5 (3
epochs of SFT). Switching at a tuned point instead of after a fixed number of epochs follows RETU,
arXiv 2512.11470.
"""

import math
from collections.abc import Mapping
from typing import Any

from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig
from coop_rl.config.method import ColdStartMethod
from coop_rl.metric_names import VALIDATION_NLL
from coop_rl.types import Guidance, Objective


class ColdStart(Method[ColdStartMethod]):
    """SFT until it stops helping, then RL."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._per_step = config.demonstrations.per_step
        self._most_sft_steps = 0
        self._is_sft = True
        self._best = math.inf
        self._misses = 0

    def begin(self, num_demonstrations: int, state: Mapping[str, Any]) -> None:
        """Work out how long the epochs are."""
        epoch = math.ceil(num_demonstrations / self._per_step)
        self._most_sft_steps = self.section.epochs * epoch
        super().begin(num_demonstrations, state)

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return the loss of the phase."""
        if self._is_sft:
            scale = self.section.sft_lr_scale
            return Objective(rl_weight=0.0, sft_weight=1.0, lr_scale=scale)
        return Objective(rl_weight=1.0, sft_weight=0.0)

    def observe_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Switch when the epochs are used up, or the NLL has not fallen for long enough."""
        if not self._is_sft:
            return
        if self.section.switch == "validation" and VALIDATION_NLL in metrics:
            nll = metrics[VALIDATION_NLL]
            is_lower = nll < self._best - self.section.min_improvement
            self._best = nll if is_lower else self._best
            self._misses = 0 if is_lower else self._misses + 1
        is_flat = self._misses >= self.section.patience
        self._is_sft = not is_flat and step < self._most_sft_steps

    def state(self) -> dict[str, Any]:
        """Return the phase and what it depends on."""
        best = None if math.isinf(self._best) else self._best
        return {"is_sft": self._is_sft, "best": best, "misses": self._misses}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on in that phase."""
        self._is_sft, self._misses = state["is_sft"], state["misses"]
        self._best = math.inf if state["best"] is None else state["best"]
