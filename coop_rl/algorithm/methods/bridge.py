r"""`bridge`: cooperative SFT and RL, arXiv 2509.06948, equations 7-9 (docs/algorithm.md section 3).

    theta     <- theta     + optimiser( (1 - lambda) g_theta^SFT + lambda g_theta^RL )
    theta-hat <- theta-hat + optimiser( g-hat_theta^RL )
    w         <- w + optimiser_w( (1 - lambda_w) g_w^SFT + lambda_w (g_w^RL - g-hat_w^RL) )

all gradients taken at step k before any update. The printed eq. (9) has a minus in the second
line; ascent is right. Every `shadow.resync_every` = m steps, after the gradients of step k, the
second line becomes  theta-hat_{k+1} <- theta_k + optimiser(g_theta^RL at theta_k)  with moments of
the shadow's own, so theta-hat is always 1...m RL-only steps from a theta of the chain.

lambda is constant, or rises from 0 to 1 over K steps (never quite reaching either, because w needs
both gradients), or is what the meta-controller learned (`mix` guidance; inside its bounds from the
first step on, so that every step has both losses):
    linear   lambda_k = (k + 1/2) / K
    cosine   lambda_k = (1 - cos(pi (k + 1/2) / K)) / 2
Before them may come `cold_start_steps` steps with lambda_k = 0, where nothing is sampled and every
g^RL is 0: SFT of theta and w is much cheaper than a step with rollouts. k and K above count from
their end.

With `demonstrations` guidance g_theta^SFT = sum_s v_s g_s / sum_s v_s over the sources s of a step.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coop_rl.algorithm.methods.base import Method, StepData
from coop_rl.algorithm.schedules import scheduled_mix
from coop_rl.config import RunConfig
from coop_rl.config.method import BridgeMethod
from coop_rl.config.sizes import mix_and_penalty
from coop_rl.types import (
    CooperativeGain,
    DemonstrationTerm,
    Guidance,
    Lesson,
    Objective,
)


class Bridge(Method[BridgeMethod]):
    """Cooperative SFT and RL."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._is_mix_learned = "mix" in config.meta.guidance
        self._mix, _ = mix_and_penalty(config)
        self._num_steps = config.run.num_steps
        self._first_step = self.section.cold_start_steps
        """The first step of cooperation."""
        self._resync_every = config.shadow.resync_every
        self._learns_own = config.shadow.rollouts == "own"
        self._has_low_ess = False

    @property
    def wants_fresh(self) -> bool:
        """Whether the next bracket is measured on the shadow's own rollouts."""
        is_needed = self.gain.always_fresh or (self.gain.may_be_fresh and self._has_low_ess)
        return self.uses_shadow and is_needed

    @property
    def shadow_learns_own(self) -> bool:
        """Whether theta-hat learns from what it samples."""
        return self._learns_own

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return lambda L_RL + (1 - lambda) L_SFT, the sources weighed where guidance says so."""
        if step < self._first_step:
            mix = 0.0
        elif guidance is None or not self._is_mix_learned:
            mix = scheduled_mix(
                step - self._first_step,
                self._num_steps - self._first_step,
                self.section.mix_schedule,
                self._mix,
            )
        else:
            mix = guidance.mix
        every = self._resync_every
        is_due = self.uses_shadow and every is not None and step > 0 and step % every == 0
        objective = Objective(rl_weight=mix, sft_weight=1.0 - mix, resync_shadow=is_due)
        if guidance is None or not guidance.source_weights:
            return objective
        terms = tuple(
            DemonstrationTerm(share=weight, source=source)
            for source, weight in guidance.source_weights
        )
        return replace(objective, terms=terms)

    def compose(self, data: StepData) -> Lesson:
        """Give every demonstration the weight that the meta-controller learned for it, if any."""
        lesson = super().compose(data)
        if data.guidance is None or not data.guidance.example_weights:
            return lesson
        weights = dict(data.guidance.example_weights)
        raw = [weights.get(d.id, 1.0) for d in data.demonstrations]
        mean = sum(raw) / max(1, len(raw))
        weighed = [
            replace(d, weight=weight / mean)
            for d, weight in zip(data.demonstrations, raw, strict=True)
        ]
        return replace(lesson, demonstrations=weighed)

    def shadow_age(self, step: int) -> int:
        """Return the steps since theta-hat was theta, at most once around the re-sync."""
        if not self.uses_shadow:
            return 1
        # The re-sync of step m comes after its gradients, which are those of age m.
        every = self._resync_every
        return step if every is None or step == 0 else (step - 1) % every + 1

    def observe_gain(self, gain: CooperativeGain | None) -> None:
        """Remember whether the shared rollouts are still close enough to theta-hat to reweight."""
        super().observe_gain(gain)
        if gain is not None:
            self._has_low_ess = min(gain.ess, gain.ess_joint) < self.gain.min_ess

    def state(self) -> dict[str, Any]:
        """Return whether the last step's ESS was low, and the last gains."""
        return {"has_low_ess": self._has_low_ess, "gains": self.gains.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from that step."""
        self._has_low_ess = bool(state["has_low_ess"])
        self.gains.load_state(state["gains"])
