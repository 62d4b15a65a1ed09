"""One rank of a learner group; `joint` and `rl_only` are this class.

    PackedBatch, Objective --compute--> gradients of theta and w --[re-sync]--> step --> StepResult

One step (docs/algorithm.md section 3), on every rank at the same time:
    RL backward passes, unweighted        -> h_w^RL read, theta's gradient scaled by lambda
    SFT backward passes, weighted 1-lambda -> h_w^SFT read, fused theta-gradient complete
    re-sync steps only: `joint` sends theta_k, `rl_only` becomes it and takes h_theta^RL anew
    optimiser step
The RL passes are unweighted so that both branches run bit for bit the same arithmetic on h_w^RL:
the bracket is exactly zero where theta-hat = theta, whatever lambda is.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from coop_rl.algorithm.gain import GainSettings
from coop_rl.algorithm.losses import phi_weighted_sft_loss, rl_loss, sft_loss
from coop_rl.config import RunConfig
from coop_rl.errors import VersionError
from coop_rl.learner.engine import TrainingEngine, state_layout
from coop_rl.learner.peers import (
    GUIDANCE_GROUP,
    RESYNC_GROUP,
    BroadcastGroup,
    receive_adapter,
    receive_state,
    send_state,
)
from coop_rl.learner.state_io import StateReader, StateWriter
from coop_rl.learner.statistics import GradientParts, StepSums, Totals, compare_parts
from coop_rl.models.adapter import Adapter
from coop_rl.types import (
    AdapterGradients,
    Branch,
    MicroBatch,
    Objective,
    PackedBatch,
    PolicyVersion,
    StepResult,
    TokenRow,
)
from coop_rl.weights.receipt import Receipt, receipt_of

ADAPTER_KEY = "adapter"


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """What a learner needs of the config."""

    lr: float
    warmup_steps: int
    grad_stats_every: int
    ratio_cap: float

    @classmethod
    def from_config(cls, config: RunConfig) -> "LearnerSettings":
        """Take the sections `learner` and `method.rl`."""
        section = config.learner
        ratio_cap = GainSettings.from_config(config).ratio_cap
        return cls(section.lr, section.warmup_steps, section.grad_stats_every, ratio_cap)

    def lr_at(self, step: int) -> float:
        """Return the rate: linear warm-up, then constant."""
        if self.warmup_steps == 0:
            return self.lr
        return self.lr * min(1.0, (step + 1) / self.warmup_steps)


@dataclass(frozen=True, slots=True)
class Gradients:
    """What `compute` leaves besides the fused gradient inside the engine."""

    totals: Totals
    parts: GradientParts
    adapter: AdapterGradients | None


class Learner:
    """theta (or theta-hat) in an engine, a replica of w, and the version of both."""

    def __init__(
        self,
        settings: LearnerSettings,
        branch: Branch,
        engine: TrainingEngine,
        adapter: Adapter | None,
    ) -> None:
        """Drive `engine`, whose module the `adapter` is attached to."""
        self.branch: Branch = branch
        self.engine = engine
        self.adapter = adapter
        self.version = PolicyVersion(0, 0)
        self._settings = settings
        self._groups: dict[str, BroadcastGroup] = {}

    def attach_group(self, name: str, group: BroadcastGroup) -> None:
        """Use `group` for the messages called `name` (see `peers`)."""
        self._groups[name] = group

    def step(
        self, step: int, batch: PackedBatch, objective: Objective
    ) -> tuple[StepResult, AdapterGradients | None]:
        """Take one optimiser step; both branches do so at the same time.

        Args:
            step: k, for the rate and the cadence of statistics.
            batch: The step's data of all ranks.
            objective: Weights of the loss terms; (1, 0) for `rl_only`.
        """
        began = time.perf_counter()
        gradients = self.compute(step, batch, objective)
        if objective.resync_shadow:
            self._resync(batch)
        stats = self.engine.step(self._settings.lr_at(step) * objective.lr_scale)
        taken_at = self.version
        # Without an adapter nobody pushes one; its count then follows theta's.
        self.version = (
            taken_at.next()
            if self.adapter is None
            else PolicyVersion(taken_at.theta + 1, taken_at.adapter)
        )
        totals, parts = gradients.totals, gradients.parts
        result = StepResult(
            branch=self.branch,
            version=taken_at,
            rl_loss=totals.rl_loss,
            sft_loss=totals.sft_loss,
            entropy=totals.entropy,
            mismatch_kl=totals.mismatch_kl,
            log_ratio_N=totals.log_ratio_N,
            grad_norm=stats.grad_norm,
            rl_grad_norm=parts.rl_norm,
            sft_grad_norm=parts.sft_norm,
            grad_cosine=parts.cosine,
            is_step_applied=stats.is_applied,
            duration_s=time.perf_counter() - began,
        )
        return result, gradients.adapter

    def compute(self, step: int, batch: PackedBatch, objective: Objective) -> Gradients:
        """Leave the fused theta-gradient in the engine; return w's gradients and the statistics."""
        engine, rank = self.engine, self.engine.rank
        has_rl = objective.rl_weight > 0 and bool(batch.rl[rank])
        has_sft = objective.sft_weight > 0 and bool(batch.sft[rank])
        assert has_rl or has_sft, "a step needs rollouts or demonstrations with a weight"
        every = self._settings.grad_stats_every
        is_measured = every > 0 and step % every == 0
        sums = StepSums(batch.num_samples, engine.device)
        rl_parts = total_parts = None
        adapter_rl: dict[str, torch.Tensor] = {}
        adapter_sft: dict[str, torch.Tensor] = {}
        if has_rl:
            self._rl_phase(batch, sums)
            adapter_rl = self._take_adapter_gradients(1.0)
            rl_parts = engine.gradient_parts() if is_measured else None
            if objective.rl_weight != 1.0:
                engine.scale_gradient(objective.rl_weight)
        if has_sft:
            self._sft_phase(batch, objective, sums)
            adapter_sft = self._take_adapter_gradients(objective.sft_weight)
            total_parts = engine.gradient_parts() if is_measured else None
        parts = GradientParts()
        if is_measured:
            parts = compare_parts(
                engine, rl_parts, total_parts, objective.rl_weight, objective.sft_weight
            )
        totals = sums.reduce(engine, batch.num_rl_tokens, has_rl=has_rl, has_sft=has_sft)
        adapter = None
        if self.adapter is not None:
            adapter = AdapterGradients(self.branch, self.version, adapter_rl, adapter_sft)
        return Gradients(totals, parts, adapter)

    def _rl_phase(self, batch: PackedBatch, sums: StepSums | None) -> None:
        for micro in batch.rl[self.engine.rank]:
            token_ids_BL, is_response_BL = self._to_device(micro)
            scores = self.engine(token_ids_BL, is_response_BL)
            loss, log_ratio_B = rl_loss(
                scores.log_prob_T,
                micro.behaviour_log_prob_T.to(self.engine.device),
                is_response_BL.nonzero()[:, 0],
                micro.advantage_B.to(self.engine.device),
                token_ids_BL.shape[0],
                batch.num_rl_tokens,
                self._settings.ratio_cap,
            )
            if sums is not None:
                sums.add_rl(micro, loss, log_ratio_B, scores)
            self.engine.backward(loss)

    def _sft_phase(self, batch: PackedBatch, objective: Objective, sums: StepSums) -> None:
        for micro in batch.sft[self.engine.rank]:
            scores = self.engine(*self._to_device(micro))
            loss = sft_loss(scores.log_prob_T, batch.num_sft_tokens)
            sums.add_sft(loss)
            if objective.is_phi_weighted:
                loss = phi_weighted_sft_loss(scores.log_prob_T, batch.num_sft_tokens)
            self.engine.backward(objective.sft_weight * loss)

    def _to_device(self, micro: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.engine.device
        return micro.token_ids_BL.to(device), micro.is_response_BL.to(device)

    def _take_adapter_gradients(self, weight: float) -> dict[str, torch.Tensor]:
        """Return w's unweighted gradient since the last call, summed over ranks, on the CPU."""
        if self.adapter is None:
            return {}
        gradients = self.adapter.gradients()
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients.values()])
        self.engine.all_reduce_sum(flat)
        flat = (flat / (weight * self.engine.loss_factor)).cpu()
        parts = torch.split(flat, [gradient.numel() for gradient in gradients.values()])
        self.adapter.zero_grad()
        # Cloned: a pickled view would take all of `flat` along, once for every tensor.
        return {
            name: part.view_as(gradient).clone()
            for (name, gradient), part in zip(gradients.items(), parts, strict=True)
        }

    def _resync(self, batch: PackedBatch) -> None:
        """theta-hat becomes theta_k and takes g_theta^RL there (docs/algorithm.md section 3)."""
        if self.branch == "joint":
            self.send_state(self._groups.get(RESYNC_GROUP))
            return
        self.receive_state(self._groups[RESYNC_GROUP])
        self._rl_phase(batch, None)
        if self.adapter is not None:
            self.adapter.zero_grad()

    def send_state(self, group: BroadcastGroup | None) -> None:
        """Send theta_k to the shadow; every rank of `joint` calls it, only rank 0 has the group."""
        send_state(group, self.engine, self.version.theta)

    def receive_state(self, group: BroadcastGroup) -> None:
        """Become theta_k, with its optimiser state and without a gradient."""
        self.engine.zero_grad()
        receive_state(group, self.engine, self.version.theta)

    def receive_guidance(self, group: BroadcastGroup | None = None) -> Receipt:
        """Receive the meta-controller's next w; returns the checksums of what is held then.

        Raises:
            VersionError: It is not the next one.
        """
        assert self.adapter is not None, "a method without an adapter got guidance"
        expected = self.version.adapter + 1
        flat = receive_adapter(
            group or self._groups[GUIDANCE_GROUP], expected, self.adapter.numel()
        )
        self.adapter.load_flat(flat)
        self.version = PolicyVersion(self.version.theta, expected)
        return receipt_of(self.adapter.tensors.items())

    @torch.no_grad()
    def score(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """Return log pi(theta, w) of each row's response tokens; all ranks score the same rows."""
        results = []
        for prompt_ids, response_ids in rows:
            token_ids_BL = torch.tensor([prompt_ids + response_ids], device=self.engine.device)
            is_response_BL = torch.zeros_like(token_ids_BL, dtype=torch.bool)
            is_response_BL[0, len(prompt_ids) :] = True
            results.append(self.engine(token_ids_BL, is_response_BL).log_prob_T.tolist())
        return results

    def check_version(self, version: PolicyVersion) -> None:
        """Refuse to act under a version this learner is not at.

        Raises:
            VersionError: The two differ.
        """
        if version != self.version:
            raise VersionError(
                f"asked for {version}, but learner {self.branch} is at {self.version}"
            )

    def save_state(self, folder: Path) -> None:
        """Write `folder/<branch>`: every rank gathers, rank 0 writes."""
        writer = StateWriter(folder / self.branch) if self.engine.rank == 0 else None
        for key, tensor in self.engine.export_state():
            if writer:
                writer.add(key, tensor)
        if writer:
            if self.adapter is not None:
                writer.add(ADAPTER_KEY, self.adapter.flatten())
            writer.finish({"theta": self.version.theta, "adapter": self.version.adapter})

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote, on any number of ranks."""
        reader = StateReader(folder / self.branch)
        keys = [key for key, _, _ in state_layout(self.engine.metadata())]
        self.engine.import_state(reader.read(keys))
        if self.adapter is not None:
            for _, flat in reader.read([ADAPTER_KEY]):
                self.adapter.load_flat(flat)
        self.version = PolicyVersion(reader.values["theta"], reader.values["adapter"])
