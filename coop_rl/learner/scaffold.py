"""w as a scaffold (`algorithm.scaffold`): fitted to demonstrations while theta stays as it is.

    SourceBatch --passes under pi(theta, w)--> h_w^SFT, theta's gradient dropped
                                                 --> to the meta-controller (meta.guidance scaffold)
                                                 --> AdamW here, from w's start (method lspo)

All ranks call the same; the gradient is summed over them, so a w that is fitted here stays the same
on all. In theta's passes w is off.
"""

import math

import torch

from coop_rl.config.optimizer import OptimizerSection
from coop_rl.learner.engine import TrainingEngine
from coop_rl.learner.gradient_step import NamedGradients, take_w_gradients
from coop_rl.learner.passes import Passes
from coop_rl.learner.statistics import StepSums
from coop_rl.models.adapter import Adapter
from coop_rl.tracing.trace import span
from coop_rl.types import Objective, SourceBatch

DEMONSTRATIONS_ALONE = Objective(rl_weight=0.0, sft_weight=1.0)


class Scaffold:
    """This rank's replica of w, and the passes that fit it."""

    def __init__(
        self, engine: TrainingEngine, passes: Passes, adapter: Adapter, section: OptimizerSection
    ) -> None:
        """Switch `adapter` off; `section` is its AdamW's, for `fit`."""
        self.adapter = adapter
        self._engine = engine
        self._passes = passes
        self._section = section
        self._start = adapter.flatten()
        adapter.is_on = False

    @span("scaffold passes")
    def gradients(self, shown: SourceBatch) -> NamedGradients:
        """Return h_w^SFT at (theta, w), summed over the ranks."""
        sums = StepSums(0, self._engine.device)
        with self.adapter.switched_on():
            self._passes.demonstrations(shown, DEMONSTRATIONS_ALONE, sums)
        gradients = take_w_gradients(self._engine, self.adapter, 1.0)
        self._engine.zero_grad()
        return gradients

    def fit(self, shown: SourceBatch, num_steps: int) -> None:
        """Set w to its start and fit it to `shown` in so many AdamW steps."""
        section, tensors = self._section, self.adapter.tensors
        self.adapter.load_flat(self._start)
        optimizer = torch.optim.AdamW(
            tensors.values(),
            lr=section.lr,
            betas=section.betas,
            weight_decay=section.weight_decay,
        )
        for _ in range(num_steps):
            gradients = self.gradients(shown)
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
            scale = min(1.0, section.max_grad_norm / (norm + 1e-6))
            for name, tensor in tensors.items():
                tensor.grad = gradients[name].to(tensor.device) * scale
            optimizer.step()
        self.adapter.zero_grad()
