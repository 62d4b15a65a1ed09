r"""The keeper of guidance: turns the branches' gradients into the next w and pushes it to learners.

    w  <-  w - AdamW( (1 - lambda_w) h_w^SFT + lambda_w (h_w^RL - h-hat_w^RL) )

with h the gradients of the losses (docs/algorithm.md section 3, step 6). A scaffold
follows h_w^SFT of the demonstrations of failed prompts alone, and rests where none failed. lambda
and the demonstrations' weights are in `scalar_guidance`. `distributed` wraps it in an actor. Every
update advances the adapter's version and is pushed, also when w does not move.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from coop_rl.algorithm.bracket import BracketStats, adapter_gradient
from coop_rl.algorithm.schedules import rate_at
from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_scaffold, mix_and_penalty
from coop_rl.errors import VersionError
from coop_rl.learner.groups import W_GROUP
from coop_rl.learner.peers import BroadcastGroup, send_w
from coop_rl.learner.scalar_guidance import ScalarGuidance
from coop_rl.learner.state_io import Digests, StateReader, StateWriter
from coop_rl.models.adapter import Adapter, Shapes
from coop_rl.types import (
    AdapterGradients,
    CooperativeGain,
    Guidance,
    GuidanceUpdate,
    PolicyVersion,
    SkipReason,
    StepResult,
)
from coop_rl.weights.receipt import Receipt, receipt_of

FOLDER = "meta"
"""Its name inside a checkpoint."""
BRACKET_OBJECTIVES = ("cooperative", "random")
"""Objectives of w that use the bracket, so that a step whose bracket does not count is skipped."""
MOMENTS = ("exp_avg", "exp_avg_sq")
NOT_MEASURED = BracketStats(math.nan, math.nan, math.nan)


def build_adapter(config: RunConfig, shapes: Shapes, device: str) -> Adapter:
    """Return w at its start: the same here and in every learner."""
    section = config.adapter
    return Adapter(
        shapes, rank=section.rank, alpha=section.alpha, seed=config.run.seed, device=device
    )


class MetaController:
    """w in fp32, its optimiser, and the version both learner groups must agree on."""

    def __init__(
        self, config: RunConfig, adapter: Adapter | None, sources: Sequence[str] = ()
    ) -> None:
        """Keep `adapter`, which starts equal to the learners' replicas; None: there is no w."""
        self.adapter = adapter
        self.version = 0
        self._section = config.adapter
        self._num_steps = config.run.num_steps
        self._w_objective = config.meta.w_objective
        _, self._penalty = mix_and_penalty(config)
        self._is_scaffold = has_scaffold(config)
        if self._is_scaffold:
            self._penalty = 0.0
            self._w_objective = "frozen" if self._w_objective == "frozen" else "sft"
        self._scalars = ScalarGuidance(config, sources)
        # For the control `random`; another seed than that of w's start.
        self._generator = torch.Generator().manual_seed(config.run.seed + 1)
        self._optimizer: torch.optim.AdamW | None = None
        if adapter:
            self._optimizer = torch.optim.AdamW(
                adapter.tensors.values(),
                lr=self._section.lr,
                betas=self._section.betas,
                weight_decay=self._section.weight_decay,
            )
        self._groups: dict[str, BroadcastGroup] = {}

    @property
    def guidance(self) -> Guidance:
        """What the next step follows besides w."""
        return self._scalars.guidance

    def attach_group(self, name: str, group: BroadcastGroup) -> None:
        """Use `group` for the messages called `name`."""
        self._groups[name] = group

    def update(
        self,
        report: StepResult,
        joint: AdapterGradients | None,
        shadow: AdapterGradients | None,
        gain: CooperativeGain | None,
    ) -> GuidanceUpdate:
        """Take one step of w, or skip it and say why; and one of lambda and the weights.

        Args:
            report: The joint branch's step.
            joint: Gradients of w from `joint`; None without an adapter.
            shadow: Those from the shadow; None without a shadow.
            gain: Says whether the bracket may move w; None where there is no gain.

        Raises:
            VersionError: The gradients stem from different versions, or not from the current w.
        """
        skipped, update_norm, adapter_norm, stats = SkipReason.NONE, 0.0, math.nan, NOT_MEASURED
        if joint is not None and self.adapter is not None:
            self._check_versions(joint, shadow)
            before = self.adapter.flatten()
            skipped, stats = self._update_adapter(joint, shadow, gain)
            update_norm = float((self.adapter.flatten() - before).double().norm())
            adapter_norm = self.adapter.norm()
        self.version += 1
        self._scalars.update(report)
        return GuidanceUpdate(
            version=PolicyVersion(report.version.theta + 1, self.version),
            skipped=skipped,
            adapter_norm=adapter_norm,
            update_norm=update_norm,
            bracket_norm=stats.bracket_norm,
            bracket_cosine=stats.bracket_cosine,
            sft_grad_norm=stats.sft_grad_norm,
            guidance=self.guidance,
        )

    def _update_adapter(
        self,
        joint: AdapterGradients,
        shadow: AdapterGradients | None,
        gain: CooperativeGain | None,
    ) -> tuple[SkipReason, BracketStats]:
        if self._is_scaffold and not joint.sft:
            return SkipReason.NOTHING_FAILED, NOT_MEASURED
        gradient, stats = adapter_gradient(
            self._w_objective, self._penalty, joint, shadow, self._generator
        )
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient.values()))
        skipped = self._reason_to_skip(norm, gain)
        if skipped is SkipReason.NONE:
            self._step(gradient, norm, joint.version.theta)
        return skipped, stats

    def push_w(self) -> Receipt:
        """Broadcast w and its version to every learner; returns w's checksums."""
        assert self.adapter is not None, "there is no w to push"
        send_w(self._groups[W_GROUP], self.version, self.adapter.flatten())
        return receipt_of(self.adapter.tensors.items())

    def save_state(self, folder: Path) -> Digests:
        """Write `folder/meta`."""
        writer = StateWriter(folder / FOLDER)
        num_steps = 0
        for name, tensor in self.adapter.tensors.items() if self.adapter else ():
            writer.add(name, tensor)
            state = self._optimizer.state.get(tensor) if self._optimizer else None
            if state:
                num_steps = int(state["step"])
                for moment in MOMENTS:
                    writer.add(f"{moment}/{name}", state[moment])
        return writer.finish(
            {
                "adapter": self.version,
                "num_steps": num_steps,
                "generator": self._generator.get_state().numpy().tobytes().hex(),
                "scalars": self._scalars.state(),
            }
        )

    @torch.no_grad()
    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        reader = StateReader(folder / FOLDER)
        self.version = reader.values["adapter"]
        self._scalars.load_state(reader.values["scalars"])
        generator = bytearray.fromhex(reader.values["generator"])
        self._generator.set_state(torch.frombuffer(generator, dtype=torch.uint8))
        for name, tensor in self.adapter.tensors.items() if self.adapter else ():
            keys = [name, *(f"{moment}/{name}" for moment in MOMENTS)]
            values = dict(reader.read(keys))
            tensor.copy_(values[name])
            if reader.values["num_steps"] and self._optimizer:
                self._optimizer.state[tensor] = {
                    "step": torch.tensor(float(reader.values["num_steps"])),
                    **{moment: values[f"{moment}/{name}"] for moment in MOMENTS},
                }

    def _check_versions(self, joint: AdapterGradients, shadow: AdapterGradients | None) -> None:
        if shadow is not None and shadow.version != joint.version:
            raise VersionError(
                f"gradients of joint at {joint.version} and of the shadow at {shadow.version} "
                "cannot be subtracted"
            )
        if joint.version.adapter != self.version:
            raise VersionError(
                f"gradients stem from adapter version {joint.version.adapter}, "
                f"the meta-controller is at {self.version}"
            )

    def _reason_to_skip(self, norm: float, gain: CooperativeGain | None) -> SkipReason:
        if self._w_objective == "frozen":
            return SkipReason.FROZEN
        follows_bracket = self._w_objective in BRACKET_OBJECTIVES and self._penalty > 0
        if follows_bracket and gain is not None and not gain.is_resolved:
            return SkipReason.ROUNDED
        if follows_bracket and gain is not None and not gain.is_usable:
            return SkipReason.LOW_ESS
        return SkipReason.NONE if math.isfinite(norm) else SkipReason.NON_FINITE

    def _step(self, gradient: dict[str, torch.Tensor], norm: float, step: int) -> None:
        assert self.adapter is not None
        assert self._optimizer is not None
        section = self._section
        # The same clipping as torch's clip_grad_norm_.
        scale = min(1.0, section.max_grad_norm / (norm + 1e-6))
        for name, tensor in self.adapter.tensors.items():
            tensor.grad = gradient[name].to(tensor.device) * scale
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(section, step, self._num_steps)
        before = self.adapter.flatten()
        self._optimizer.step()
        self.adapter.zero_grad()
        if section.max_update_norm is not None:
            change = self.adapter.flatten() - before
            length = float(change.double().norm())
            if length > section.max_update_norm:
                self.adapter.load_flat(before + change * (section.max_update_norm / length))
