r"""The gain without a branch `shadow`: one RL-only step beside joint's own, kept until the next.

    theta-hat_{k+1} = theta_k + AdamW( g_theta^RL at theta_k )     with moments of g_theta^RL alone
    G_{k+1} = J_RL(theta_{k+1}, w) - J_RL(theta-hat_{k+1}, w)      on the rollouts of step k + 1

(docs/algorithm.md section 4; the gain of `algorithm.lookahead` is this one.) The branch `shadow` is
a learner group that follows RL for many steps; this is a shadow of age 1 inside `joint`, for runs
whose guidance needs no bracket. It costs three vectors of theta's size (theta-hat and its moments,
cut over the ranks as joint's are) and, where the gain is measured, one pass forward over the
rollouts. Of several optimiser steps in a meta-step each contributes its RL gradient, taken where
joint is by then.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from coop_rl.algorithm.lookahead import clip_factor
from coop_rl.config.optimizer import OptimizerSection
from coop_rl.learner.engine import MOMENTS, TrainingEngine, fill_state
from coop_rl.learner.resolution import resolve
from coop_rl.learner.state_io import Finish, StateReader, StateWriter
from coop_rl.learner.statistics import dot
from coop_rl.types import SampleSums

Parts = list[torch.Tensor]


def with_kl(shadow: SampleSums, joint: SampleSums) -> SampleSums:
    """Return the shadow's sums with their KL: pi_ref is the same, so it differs as log pi does."""
    if not joint.kl_N:
        return shadow
    if shadow.is_relative:
        return replace(shadow, kl_N=shadow.log_ratio_N)
    triples = zip(shadow.log_ratio_N, joint.log_ratio_N, joint.kl_N, strict=True)
    return replace(shadow, kl_N=tuple(kl + own - other for own, other, kl in triples))


class OneStepShadow:
    """This rank's part of theta-hat and of its AdamW."""

    def __init__(
        self, engine: TrainingEngine, section: OptimizerSection, *, every: int, is_rounded: bool
    ) -> None:
        """Step beside `engine`.

        Args:
            engine: Joint's.
            section: AdamW's settings and clipping, joint's own.
            every: Meta-steps between two measurements.
            is_rounded: Whether the model computes in fewer bits than its masters have.
        """
        self._engine = engine
        self._section = section
        self._every = every
        self._is_rounded = is_rounded
        self._theta_hat: Parts = []
        self._optimizer: torch.optim.AdamW | None = None
        self._is_beside = False

    def is_due(self, step: int) -> bool:
        """Return whether step `step` measures the gain."""
        return self._is_beside and step % self._every == 0

    def begin(self) -> None:
        """Start from theta, before a meta-step's first update."""
        masters = self._engine.master_parts()
        if self._optimizer is None:
            self._theta_hat = [master.detach().clone() for master in masters]
            self._optimizer = torch.optim.AdamW(
                self._theta_hat,
                lr=0.0,  # set at every step
                betas=self._section.betas,
                weight_decay=self._section.weight_decay,
                fused=True,
            )
        for value, master in zip(self._theta_hat, masters, strict=True):
            value.copy_(master)
        self._is_beside = False

    def step(self, rl_parts: Parts, lr: float) -> None:
        """Take an RL-only step from where theta-hat is; none where the gradient is not finite.

        Args:
            rl_parts: This rank's parts of the unweighted RL gradient.
            lr: Joint's rate.
        """
        assert self._optimizer is not None, "`begin` comes first"
        square = torch.tensor([dot(rl_parts, rl_parts)], dtype=torch.float64)
        square = square.to(self._engine.device)
        self._engine.all_reduce_sum(square)
        norm = float(square.sqrt())
        if not torch.isfinite(square):
            return
        factor = clip_factor(norm, self._section.max_grad_norm)
        for value, gradient in zip(self._theta_hat, rl_parts, strict=True):
            value.grad = (factor * gradient).view_as(value)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._is_beside = True

    def measure(self, log_ratios: Callable[[], tuple[float, ...]]) -> SampleSums:
        """Return the samples' sums under theta-hat; over a longer way where rounding hides it.

        Args:
            log_ratios: Sums of log pi - log pi_b of the samples, by what the engine computes with.
        """
        masters = self._engine.master_parts()
        parts = [a - b for a, b in zip(self._theta_hat, masters, strict=True)]
        if not self._is_rounded:
            with self._engine.shifted(parts, 1.0):
                return SampleSums(log_ratios(), ())
        resolution = resolve(masters, self._theta_hat, self._engine)
        sides = []
        for sign in (1.0, -1.0):
            with self._engine.shifted(parts, sign * resolution.amplification):
                sides.append(log_ratios())
        way = 2.0 * resolution.amplification
        relative_N = tuple((far - near) / way for far, near in zip(*sides, strict=True))
        return SampleSums(relative_N, (), is_relative=True, resolution=resolution)

    def save(self, folder: Path, *, writes_later: bool = False) -> Finish:
        """Take in this rank's part, for `StateWriter.finish`.

        A run resumed on other ranks, or at another ZeRO stage, starts its moments anew.
        """
        name = f"one-step-shadow-{self._engine.rank}"
        writer = StateWriter(folder / name, writes_later=writes_later)
        num_steps = 0
        for index, value in enumerate(self._theta_hat):
            assert self._optimizer is not None
            writer.add(f"theta-hat/{index}", value)
            state = self._optimizer.state[value]
            fill_state(state, value)
            num_steps = int(state["step"])
            for moment in MOMENTS:
                writer.add(f"{moment}/{index}", state[moment])
        return partial(
            writer.finish,
            {
                "world_size": self._engine.world_size,
                "num_parts": len(self._theta_hat),
                "cut": [value.numel() for value in self._theta_hat],
                "num_steps": num_steps,
                "is_beside": self._is_beside,
            },
        )

    def load(self, folder: Path) -> None:
        """Read what `save` wrote where theta was cut alike."""
        # Rank 0 has written in every world.
        facts = StateReader(folder / "one-step-shadow-0").values
        if facts["world_size"] != self._engine.world_size or not facts["num_parts"]:
            return
        reader = StateReader(folder / f"one-step-shadow-{self._engine.rank}")
        cut = [part.numel() for part in self._engine.master_parts()]
        if reader.values.get("cut", cut) != cut:
            return
        self.begin()
        assert self._optimizer is not None
        for index, value in enumerate(self._theta_hat):
            state = self._optimizer.state[value]
            fill_state(state, value)
            state["step"].fill_(reader.values["num_steps"])
            names = ("theta-hat", *MOMENTS)
            targets = (value, *(state[moment] for moment in MOMENTS))
            read = reader.read([f"{name}/{index}" for name in names])
            for target, (_, tensor) in zip(targets, read, strict=True):
                target.copy_(tensor)
        self._is_beside = reader.values["is_beside"]
