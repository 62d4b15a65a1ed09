r"""`cold_start`: SFT first, RL after; the point of the switch K is found by validation, or fixed.

    theta <- theta + optimiser( g^SFT )     k < K: while the validation NLL falls, for at most the
                                            E steps that `epochs` epochs take
    theta <- theta + optimiser( g^RL )      k >= K

The NLL of demonstrations kept from training is measured every `check_every` steps; `patience`
measurements in a row without a new minimum end the first phase for good. By default one optimiser
and one schedule run through both phases. As two trainings in a row, each with what suits it:

    sft_lr            SFT's rate is  sft_lr * factor(k, E)              (`schedules`, W its warm-up)
    fresh_optimizer   RL has moments of its own, zero at K, and the rate
                      learner.lr * factor(k - K, num_steps - K), with learner's warm-up and schedule

Source: the usual two-stage recipe, the rival "cold start" of BRIDGE, arXiv 2509.06948, section 5 (3
epochs of SFT). Switching at a tuned point instead of after a fixed number of epochs follows RETU,
arXiv 2512.11470. That a well-tuned SFT and then RL beats methods that mix the two is the claim of
arXiv 2604.23747, to which the second form answers.
"""

import math
from collections.abc import Mapping
from typing import Any

from coop_rl.algorithm.methods.base import Method
from coop_rl.algorithm.schedules import rate_at, rate_factor
from coop_rl.config import RunConfig
from coop_rl.config.rivals import ColdStartMethod
from coop_rl.metric_names import VALIDATION_NLL
from coop_rl.types import Guidance, Objective


class ColdStart(Method[ColdStartMethod]):
    """SFT until it stops helping, then RL."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._per_step = config.demonstrations.per_step
        self._learner, self._num_steps = config.learner, config.run.num_steps
        self._most_sft_steps = 0
        self._switch: int | None = None
        """The first step of RL; None: SFT goes on."""
        self._best = math.inf
        self._misses = 0

    def begin(self, num_demonstrations: int, state: Mapping[str, Any]) -> None:
        """Work out how long the epochs are."""
        epoch = math.ceil(num_demonstrations / self._per_step)
        self._most_sft_steps = self.section.epochs * epoch
        super().begin(num_demonstrations, state)

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return the loss of the phase, and its rate where that is not the run's."""
        if self._switch is None:
            scale, rate = self.section.sft_lr_scale, self._sft_rate(step)
            return Objective(rl_weight=0.0, sft_weight=1.0, lr_scale=scale, lr=rate)
        if not self.section.fresh_optimizer:
            return Objective(rl_weight=1.0, sft_weight=0.0)
        rate = rate_at(self._learner, step - self._switch, self._num_steps - self._switch)
        return Objective(rl_weight=1.0, sft_weight=0.0, lr=rate, has_second_optimizer=True)

    def _sft_rate(self, step: int) -> float | None:
        """Return SFT's own rate, if it has one."""
        section = self.section
        if section.sft_lr is None:
            return None
        return section.sft_lr * rate_factor(
            step,
            self._most_sft_steps,
            section.sft_warmup_steps,
            section.sft_lr_schedule,
            section.sft_lr_final,
        )

    def observe_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Switch when the epochs are used up, or the NLL has not fallen for long enough."""
        if self._switch is not None:
            return
        if self.section.switch == "validation" and VALIDATION_NLL in metrics:
            nll = metrics[VALIDATION_NLL]
            is_lower = nll < self._best - self.section.min_improvement
            self._best = nll if is_lower else self._best
            self._misses = 0 if is_lower else self._misses + 1
        if self._misses >= self.section.patience or step >= self._most_sft_steps:
            self._switch = step

    def state(self) -> dict[str, Any]:
        """Return the phase and what it depends on."""
        best = None if math.isinf(self._best) else self._best
        return {"switch": self._switch, "best": best, "misses": self._misses}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on in that phase."""
        self._switch, self._misses = state["switch"], state["misses"]
        self._best = math.inf if state["best"] is None else state["best"]
