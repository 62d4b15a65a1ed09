"""The gradient of one optimiser step, made in phases that `learner` calls in this order.

bracket_phase   h_w^RL by separate backward passes, where the RL phase does not have it: another RL
                loss, other rollouts, or weights moved further from theta (`resolution`)
rl_phase        unweighted RL backward passes; h_w^RL, unless the bracket phase has it
weigh_rl        theta's gradient scaled by lambda
sft_phase       SFT backward passes weighted 1 - lambda: the fused theta-gradient is complete
finish          norms of the parts, sums over all ranks, w's gradients
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from coop_rl.learner.engine import TrainingEngine
from coop_rl.learner.lookahead import Lookahead, Parts
from coop_rl.learner.passes import Passes
from coop_rl.learner.statistics import StepSums, compare_parts
from coop_rl.models.adapter import Adapter
from coop_rl.tracing.trace import span
from coop_rl.types import (
    AdapterGradients,
    Branch,
    GradientParts,
    Objective,
    PackedBatch,
    PolicyVersion,
    Resolution,
    SampleSums,
    StepMeans,
)

NamedGradients = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Amplified:
    """What a bracket needs whose difference rounding hides: theta, at the shadow."""

    theta: list[torch.Tensor]
    """Its masters, cut like `TrainingEngine.master_tensors`, in host memory."""
    resolution: Resolution

    def moved(self, theta_hat: list[torch.Tensor], sign: float) -> Iterator[torch.Tensor]:
        """Yield theta + sign c (theta-hat - theta), one master at a time."""
        factor = sign * self.resolution.amplification
        for own, other in zip(self.theta, theta_hat, strict=True):
            value = own.to(other.device)
            yield (other - value).mul_(factor).add_(value)


@dataclass(frozen=True, slots=True)
class Gradients:
    """What an optimiser step has besides the fused theta-gradient, which lies in the engine."""

    means: StepMeans
    samples: SampleSums
    parts: GradientParts
    adapter: AdapterGradients | None
    """None without an adapter."""
    rl_parts: Parts | None = None
    """This rank's parts of theta's unweighted RL gradient, where the parts are told apart."""


@dataclass
class GradientStep:
    """One optimiser step's data and loss, and what its phases have gathered so far."""

    engine: TrainingEngine
    passes: Passes
    adapter: Adapter | None
    """w as a part of the policy; None: there is none."""
    lookahead: Lookahead | None
    batch: PackedBatch
    objective: Objective
    is_measured: bool
    """Whether the RL and the SFT part of theta's gradient are told apart."""
    amplified: Amplified | None = None
    """None: the branches' gradients are subtracted as they are."""

    def __post_init__(self) -> None:
        batch = self.batch
        objective = self.objective = self.objective.over([part.source for part in batch.sft])
        self.has_rl = objective.rl_weight > 0 and bool(batch.rl[self.engine.rank])
        self.has_sft = objective.sft_weight > 0 and bool(batch.sft)
        assert self.has_rl or self.has_sft, "a step needs rollouts or demonstrations with a weight"
        self._sums = StepSums(batch.num_samples, self.engine.device)
        self._kl_N: tuple[float, ...] | None = None
        self._relative: SampleSums | None = None
        """The shadow's less joint's, where rounding hides small differences."""
        self._w_bracket: NamedGradients = {}
        self._rl_parts: Parts | None = None
        self._fused_parts: Parts | None = None
        self._w_rl: NamedGradients = {}
        self._w_sft: NamedGradients = {}

    def bracket_phase(self, bracket: PackedBatch | None) -> None:
        """Measure h_w^RL by the bracket's loss, where the RL phase does not; drop theta's gradient.

        Args:
            bracket: Rollouts to measure it on; None: those of the batch.
        """
        is_in_rl_phase = bracket is None and self.passes.is_bracket_loss
        if self.adapter is None or not self.has_rl:
            return
        # The shadow's own rollouts are from theta-hat as it is served, rounded.
        if self.amplified and bracket is None:
            self._bracket_over_a_longer_way(self.amplified)
        elif not is_in_rl_phase:
            self._w_rl, samples = self._bracket_pass(bracket or self.batch)
            self._kl_N = samples.kl_N

    def _bracket_pass(self, batch: PackedBatch) -> tuple[NamedGradients, SampleSums]:
        """Return h_w^RL and the samples' sums; theta's gradient is dropped."""
        sums = StepSums(batch.num_samples, self.engine.device)
        self.passes.rollouts(batch, sums, is_bracket=True)
        gradients = self._take_w_gradients(1.0)
        self.engine.zero_grad()
        _, samples = sums.reduce(self.engine, batch.num_rl_tokens, has_rl=True, has_sft=False)
        return gradients, samples

    def _bracket_over_a_longer_way(self, amplified: Amplified) -> None:
        """Measure the bracket on both sides of theta (`resolution`)."""
        sides = []
        for sign in (1.0, -1.0):
            theta_hat = self.engine.master_tensors()
            with self.engine.computing_with(amplified.moved(theta_hat, sign)):
                sides.append(self._bracket_pass(self.batch))
        (w_beyond, beyond), (w_behind, behind) = sides
        way = 2.0 * amplified.resolution.amplification
        self._w_bracket = {name: (w_behind[name] - w_beyond[name]) / way for name in w_behind}

        def relative(far: Sequence[float], near: Sequence[float]) -> tuple[float, ...]:
            return tuple((a - b) / way for a, b in zip(far, near, strict=True))

        self._relative = SampleSums(
            relative(beyond.log_ratio_N, behind.log_ratio_N),
            relative(beyond.kl_N, behind.kl_N),
            is_relative=True,
            resolution=amplified.resolution,
        )

    def rl_phase(self) -> None:
        """Add the unweighted RL gradient; with look-ahead, take its products with the last update.

        Unweighted, so that both branches run bit for bit the same arithmetic on h_w^RL: the bracket
        is exactly zero where theta-hat = theta, whatever lambda is.
        """
        if not self.has_rl:
            return
        self.passes.rollouts(self.batch, self._sums, is_bracket=False)
        gradients = self._take_w_gradients(1.0)
        self._w_rl = self._w_rl or gradients
        if self.is_measured:
            self._rl_parts = self.engine.gradient_parts()
        if self.lookahead:
            self.lookahead.measure(self._rl_parts)

    def weigh_rl(self) -> None:
        """Scale theta's RL gradient by its weight in the loss."""
        if self.has_rl and self.objective.rl_weight != 1.0:
            self.engine.scale_gradient(self.objective.rl_weight)

    def sft_phase(self) -> None:
        """Add the SFT gradient, source by source."""
        if not self.has_sft:
            return
        if self.lookahead and self._rl_parts:
            self.lookahead.begin(self._rl_parts, self.objective.rl_weight)
        for source in self.batch.sft:
            self.passes.demonstrations(source, self.objective, self._sums)
            if not self.is_measured:
                continue
            self._fused_parts = self.engine.gradient_parts()
            if self.lookahead and self._rl_parts:
                self.lookahead.add_source(source, self.objective, self._fused_parts)
        self._w_sft = self._take_w_gradients(self.objective.sft_weight)

    def finish(self, branch: Branch, version: PolicyVersion) -> Gradients:
        """Sum up over the ranks; the gradients of w are labelled `branch` and `version`."""
        objective, parts = self.objective, GradientParts()
        if self.is_measured:
            parts = compare_parts(
                self.engine,
                self._rl_parts,
                self._fused_parts,
                objective.rl_weight,
                objective.sft_weight,
            )
        means, samples = self._sums.reduce(
            self.engine, self.batch.num_rl_tokens, has_rl=self.has_rl, has_sft=self.has_sft
        )
        if self._kl_N is not None:
            samples = replace(samples, kl_N=self._kl_N)
        adapter = None
        if self.adapter is not None:
            w_rl = {} if self._w_bracket else self._w_rl
            adapter = AdapterGradients(branch, version, w_rl, self._w_sft, self._w_bracket)
        return Gradients(means, self._relative or samples, parts, adapter, self._rl_parts)

    def _take_w_gradients(self, weight: float) -> NamedGradients:
        """Return w's gradient since the last call over `weight`; nothing without an adapter."""
        return take_w_gradients(self.engine, self.adapter, weight) if self.adapter else {}


@span("gradient of w")
def take_w_gradients(engine: TrainingEngine, adapter: Adapter, weight: float) -> NamedGradients:
    """Return w's gradient since the last call over `weight`, summed over ranks, on the CPU."""
    gradients = adapter.gradients()
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients.values()])
    engine.all_reduce_sum(flat)
    flat = (flat / (weight * engine.loss_factor)).cpu()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients.values()])
    adapter.zero_grad()
    # Cloned: a pickled view would take all of `flat` along, once for every tensor.
    return {
        name: part.view_as(gradient).clone()
        for (name, gradient), part in zip(gradients.items(), parts, strict=True)
    }
