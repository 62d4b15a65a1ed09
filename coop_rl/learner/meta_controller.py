r"""The keeper of w: turns the branches' gradients into the next w and pushes it to every learner.

    w  <-  w - AdamW( (1 - lambda_w) h_w^SFT + lambda_w (h_w^RL - h-hat_w^RL) )

with h the gradients of the losses (docs/algorithm.md section 3, step 6). A plain class;
`distributed` wraps it in an actor. Every update advances the adapter's version and is pushed, also
when w stands still.
"""

import math
from pathlib import Path
from typing import Literal

import torch

from coop_rl.algorithm.guidance import adapter_gradient
from coop_rl.config import RunConfig
from coop_rl.errors import VersionError
from coop_rl.learner.peers import GUIDANCE_GROUP, BroadcastGroup, send_adapter
from coop_rl.learner.state_io import StateReader, StateWriter
from coop_rl.models.adapter import Adapter
from coop_rl.types import AdapterGradients, CooperativeGain, GuidanceUpdate, PolicyVersion
from coop_rl.weights.receipt import Receipt, receipt_of

Skip = Literal["", "low_ess", "non_finite", "frozen"]
FOLDER = "meta"
BRACKET_OBJECTIVES = ("cooperative", "random")
MOMENTS = ("exp_avg", "exp_avg_sq")


class MetaController:
    """w in fp32, its optimiser, and the version both learner groups must agree on."""

    def __init__(self, config: RunConfig, adapter: Adapter) -> None:
        """Own `adapter`, which starts equal to the learners' replicas."""
        self.adapter = adapter
        self.version = 0
        self._section = config.adapter
        self._w_objective = config.meta.w_objective
        self._penalty = config.penalty
        # Direction of the control `random`; apart from w's start, which uses the seed itself.
        self._generator = torch.Generator().manual_seed(config.run.seed + 1)
        self._optimizer = torch.optim.AdamW(
            adapter.tensors.values(),
            lr=self._section.lr,
            betas=self._section.betas,
            weight_decay=0.0,
        )
        self._groups: dict[str, BroadcastGroup] = {}

    def attach_group(self, name: str, group: BroadcastGroup) -> None:
        """Use `group` for the messages called `name`."""
        self._groups[name] = group

    def update(
        self,
        joint: AdapterGradients,
        shadow: AdapterGradients | None,
        gain: CooperativeGain | None,
    ) -> GuidanceUpdate:
        """Take one step of w, or skip it and say why.

        Raises:
            VersionError: The gradients stem from different versions, or not from the current w.
        """
        self._check_versions(joint, shadow)
        gradient, stats = adapter_gradient(
            self._w_objective, self._penalty, joint, shadow, self._generator
        )
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient.values()))
        skipped = self._reason_to_skip(norm, gain)
        before = self.adapter.flatten()
        if not skipped:
            self._step(gradient, norm)
        self.version += 1
        return GuidanceUpdate(
            version=PolicyVersion(joint.version.theta + 1, self.version),
            skipped=skipped,
            adapter_norm=self.adapter.norm(),
            update_norm=float((self.adapter.flatten() - before).double().norm()),
            bracket_norm=stats.bracket_norm,
            bracket_cosine=stats.bracket_cosine,
            sft_grad_norm=stats.sft_grad_norm,
        )

    def push(self, group: BroadcastGroup | None = None) -> Receipt:
        """Broadcast w and its version to every learner; returns w's checksums."""
        send_adapter(group or self._groups[GUIDANCE_GROUP], self.version, self.adapter.flatten())
        return receipt_of(self.adapter.tensors.items())

    def save_state(self, folder: Path) -> None:
        """Write `folder/meta`."""
        writer = StateWriter(folder / FOLDER)
        num_steps = 0
        for name, tensor in self.adapter.tensors.items():
            writer.add(name, tensor)
            state = self._optimizer.state.get(tensor)
            if state:
                num_steps = int(state["step"])
                for moment in MOMENTS:
                    writer.add(f"{moment}/{name}", state[moment])
        generator = self._generator.get_state().numpy().tobytes().hex()
        writer.finish({"adapter": self.version, "num_steps": num_steps, "generator": generator})

    @torch.no_grad()
    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        reader = StateReader(folder / FOLDER)
        self.version = reader.values["adapter"]
        generator = bytearray.fromhex(reader.values["generator"])
        self._generator.set_state(torch.frombuffer(generator, dtype=torch.uint8))
        for name, tensor in self.adapter.tensors.items():
            keys = [name, *(f"{moment}/{name}" for moment in MOMENTS)]
            values = dict(reader.read(keys))
            tensor.copy_(values[name])
            if reader.values["num_steps"]:
                self._optimizer.state[tensor] = {
                    "step": torch.tensor(float(reader.values["num_steps"])),
                    **{moment: values[f"{moment}/{name}"] for moment in MOMENTS},
                }

    def _check_versions(self, joint: AdapterGradients, shadow: AdapterGradients | None) -> None:
        if shadow is not None and shadow.version != joint.version:
            raise VersionError(
                f"gradients of joint at {joint.version} and of rl_only at {shadow.version} "
                "cannot be subtracted"
            )
        if joint.version.adapter != self.version:
            raise VersionError(
                f"gradients stem from adapter version {joint.version.adapter}, "
                f"the meta-controller is at {self.version}"
            )

    def _reason_to_skip(self, norm: float, gain: CooperativeGain | None) -> Skip:
        if self._w_objective == "frozen":
            return "frozen"
        follows_bracket = self._w_objective in BRACKET_OBJECTIVES and self._penalty > 0
        if follows_bracket and gain is not None and not gain.is_usable:
            return "low_ess"
        return "" if math.isfinite(norm) else "non_finite"

    def _step(self, gradient: dict[str, torch.Tensor], norm: float) -> None:
        # The same clipping as torch's clip_grad_norm_.
        scale = min(1.0, self._section.max_grad_norm / (norm + 1e-6))
        for name, tensor in self.adapter.tensors.items():
            tensor.grad = gradient[name].to(tensor.device) * scale
        self._optimizer.step()
        self.adapter.zero_grad()
