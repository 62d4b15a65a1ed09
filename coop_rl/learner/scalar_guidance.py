r"""Guidance besides w: lambda, and the weights of demonstrations, moved by the one-step look-ahead.

    lambda  <- clip( lambda + Adam( dG/dlambda ), mix_min, mix_max )
    phi     <- phi + Adam( dG/dphi )                 v = floor + (1 - S floor) softmax(phi)
    psi_e   <- psi_e + rate * dG/dpsi_e / rms        for the examples of the step

docs/algorithm.md section 5; the derivatives are in `algorithm.lookahead`. Products that arrive with
step k are about the update of step k - 1, hence about the guidance that was in force then. They are
taken over their natural size, |grad J_RL| |u|: what is left does not depend on theta's rate, its
warm-up or AdamW's young moments, which would let the first products outweigh all later ones. Adam
averages them, and goes the slower the less they agree.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from coop_rl.algorithm.lookahead import (
    example_derivatives,
    mix_derivative,
    source_derivatives,
    source_weights,
)
from coop_rl.algorithm.placebo import Placebo
from coop_rl.config import RunConfig
from coop_rl.config.sizes import mix_and_penalty
from coop_rl.types import Guidance, StepResult

BETAS = (0.9, 0.99)
MIX = "mix"


class ScalarAdam:
    """Adam, ascending, on a few named numbers."""

    def __init__(self, names: Sequence[str], lr: float) -> None:
        self._names = list(names)
        self._values = torch.zeros(len(self._names), dtype=torch.float64, requires_grad=True)
        self._optimizer = torch.optim.Adam([self._values], lr=lr, betas=BETAS, maximize=True)

    @property
    def values(self) -> dict[str, float]:
        """The numbers by name."""
        return dict(zip(self._names, self._values.tolist(), strict=True))

    def set(self, values: Mapping[str, float]) -> None:
        """Overwrite some of them."""
        with torch.no_grad():
            for name, value in values.items():
                self._values[self._names.index(name)] = value

    def ascend(self, derivatives: Mapping[str, float]) -> None:
        """Take one step; nothing moves where a derivative is not finite."""
        gradient = torch.tensor([derivatives[name] for name in self._names], dtype=torch.float64)
        if bool(torch.isfinite(gradient).all()):
            self._values.grad = gradient
            self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return everything, as JSON; floats survive it exactly."""
        moments = self._optimizer.state.get(self._values, {})
        return {
            "values": self._values.tolist(),
            "moments": {key: value.tolist() for key, value in moments.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            self._values.copy_(torch.tensor(state["values"], dtype=torch.float64))
        if state["moments"]:
            self._optimizer.state[self._values] = {
                key: torch.tensor(value, dtype=torch.float32 if key == "step" else torch.float64)
                for key, value in state["moments"].items()
            }


class ScalarGuidance:
    """lambda and the demonstrations' weights; those not in `meta.guidance` keep their start."""

    def __init__(self, config: RunConfig, sources: Sequence[str]) -> None:
        """Start at method.mix and at equal weights of `sources`."""
        self._section = config.meta
        self._kinds = config.meta.guidance
        mix, _ = mix_and_penalty(config)
        self._mix = ScalarAdam([MIX], self._section.mix_lr)
        self._mix.set({MIX: mix})
        self._floor = min(self._section.demonstrations_min, 1.0 / max(1, len(sources)))
        self._logits = ScalarAdam(sources, self._section.demonstrations_lr)
        self._examples: dict[str, float] = {}
        is_control = self._section.lookahead == "placebo"
        self._placebo = Placebo(config.run.seed) if is_control else None
        self._before = self._now = self._snapshot()

    @property
    def guidance(self) -> Guidance:
        """What the next step follows."""
        weights: dict[str, float] = {}
        if "demonstrations" in self._kinds:
            weights = source_weights(self._logits.values, self._floor)
        return Guidance(
            mix=self._mix.values[MIX],
            source_weights=tuple(weights.items()),
            example_weights=tuple((name, math.exp(psi)) for name, psi in self._examples.items()),
        )

    def update(self, report: StepResult) -> None:
        """Follow the products of one step, which are about the update before it."""
        measured, before = report.lookahead, self._before
        products = {c: z / measured.scale for c, z in measured.components if measured.scale > 0.0}
        slopes = dict(measured.examples)
        if self._placebo and products:
            products = self._placebo.deal(report.version.theta, products)
            slopes = self._placebo.shuffle(report.version.theta, slopes)
        if products and "mix" in self._kinds:
            weights = source_weights(before["logits"], self._floor) if self._is_split else {"": 1.0}
            self._mix.ascend({MIX: mix_derivative(products, weights)})
            low, high = self._section.mix_min, self._section.mix_max
            self._mix.set({MIX: min(max(self._mix.values[MIX], low), high)})
        if products and "demonstrations" in self._kinds:
            derivatives = source_derivatives(products, before["logits"], before["mix"], self._floor)
            self._logits.ascend(derivatives)
        if slopes:
            self._follow_examples(slopes)
        self._before, self._now = self._now, self._snapshot()

    @property
    def _is_split(self) -> bool:
        return "demonstrations" in self._kinds

    def _follow_examples(self, slopes: Mapping[str, float]) -> None:
        logits = {name: self._before["examples"].get(name, 0.0) for name in slopes}
        derivatives = example_derivatives(slopes, logits)
        rms = math.sqrt(sum(d * d for d in derivatives.values()) / len(derivatives))
        if rms > 0.0 and math.isfinite(rms):
            for name, derivative in derivatives.items():
                step = self._section.demonstrations_lr * derivative / rms
                self._examples[name] = self._examples.get(name, 0.0) + step

    def _snapshot(self) -> dict[str, Any]:
        return {
            "mix": self._mix.values[MIX],
            "logits": self._logits.values,
            "examples": dict(self._examples),
        }

    def state(self) -> dict[str, Any]:
        """Return everything, as JSON."""
        return {
            "mix": self._mix.state(),
            "logits": self._logits.state(),
            "examples": self._examples,
            "placebo": self._placebo.state() if self._placebo else [],
            "before": self._before,
            "now": self._now,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._mix.load_state(state["mix"])
        self._logits.load_state(state["logits"])
        self._examples = dict(state["examples"])
        if self._placebo:
            self._placebo.load_state(state["placebo"])
        self._before, self._now = state["before"], state["now"]
