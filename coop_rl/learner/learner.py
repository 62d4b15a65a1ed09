"""One rank of a learner group; `joint` and `shadow` are this class.

    BranchBatch, Objective --compute--> gradients of theta and w --[re-sync]--> step --> StepResult

One step (docs/algorithm.md section 3), on every rank at the same time:
    RL backward passes, unweighted        -> h_w^RL read, theta's gradient scaled by lambda
    SFT backward passes, weighted 1-lambda -> h_w^SFT read, fused theta-gradient complete
    re-sync steps only: `shadow` becomes theta_k, with the h_theta^RL that `joint` took there
    optimiser step; further minibatches follow in the same way, for theta alone
The RL passes are unweighted so that both branches run bit for bit the same arithmetic on h_w^RL:
the bracket is exactly zero where theta-hat = theta, whatever lambda is. Where theta's RL loss is
not the bracket's (another estimator, or `fresh` rollouts), h_w^RL has passes of its own before.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from coop_rl.errors import VersionError
from coop_rl.learner.engine import MASTER, NUM_STEPS, StepStats, TrainingEngine, state_layout
from coop_rl.learner.groups import GUIDANCE_GROUP, RESYNC_GROUP
from coop_rl.learner.lookahead import Lookahead
from coop_rl.learner.passes import (
    Passes,
    Reference,
    TokenCounter,
    demonstration_fit,
    score_rows,
)
from coop_rl.learner.peers import (
    BroadcastGroup,
    receive_adapter,
    receive_state,
    send_state,
)
from coop_rl.learner.settings import LearnerSettings
from coop_rl.learner.state_io import StateReader, StateWriter
from coop_rl.learner.statistics import GradientParts, StepSums, Totals, compare_parts, mean_over
from coop_rl.models.adapter import Adapter
from coop_rl.tracing.trace import span
from coop_rl.types import (
    AdapterGradients,
    Branch,
    BranchBatch,
    DemonstrationFit,
    Objective,
    PackedBatch,
    PolicyVersion,
    StepResult,
    TokenRow,
)
from coop_rl.weights.receipt import Receipt, receipt_of

ADAPTER_KEY = "adapter"
OWN_OPTIMIZER = "own/"
"""Prefix of the second optimiser state's moments in a checkpoint."""
HOST = torch.device("cpu")


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
        reference: Reference | None = None,
    ) -> None:
        """Drive `engine`, whose module the `adapter` is attached to; `reference` is pi_ref."""
        self.branch: Branch = branch
        self.engine = engine
        self.adapter = adapter
        self.version = PolicyVersion(0, 0)
        self._settings = settings
        self._groups: dict[str, BroadcastGroup] = {}
        self._passes = Passes(settings.loss, engine, reference)
        self._lookahead: Lookahead | None = None
        if settings.has_lookahead and branch == "joint":
            self._lookahead = Lookahead(
                engine, settings.betas, settings.max_grad_norm, settings.has_example_lookahead
            )
        self._has_own_optimizer = False

    def attach_group(self, name: str, group: BroadcastGroup) -> None:
        """Use `group` for the messages called `name` (see `peers`)."""
        self._groups[name] = group

    def step(
        self, step: int, batch: BranchBatch, objective: Objective
    ) -> tuple[StepResult, AdapterGradients | None]:
        """Take a meta-step's optimiser steps; both branches do so at the same time.

        Args:
            step: k, for the rate and the cadence of statistics.
            batch: The step's data of all ranks.
            objective: The loss; RL alone for `shadow`.
        """
        began = time.perf_counter()
        self._passes.counter = TokenCounter()
        self._passes.remember_old_log_probs(batch.minibatches)
        taken: list[Gradients] = []
        updates: list[StepStats] = []
        for index, minibatch in enumerate(batch.minibatches):
            is_first = index == 0
            bracket = batch.bracket if is_first else None
            taken.append(self.compute(step, minibatch, objective, bracket, has_w=is_first))
            if is_first and objective.resync_shadow and self.branch == "shadow":
                self._resync(batch)
            with self._moments_at_hand():
                updates.append(self._update(step, objective))
        return self._result(taken, updates, began), taken[0].adapter

    @contextmanager
    def _moments_at_hand(self) -> Iterator[None]:
        """Bring AdamW's moments onto the device, where the config keeps them away otherwise."""
        is_away = self.branch in self._settings.offloaded
        if is_away:
            self.engine.offload_moments(self.engine.device)
        yield
        if is_away:
            self.engine.offload_moments(HOST)

    @span("optimizer")
    def _update(self, step: int, objective: Objective) -> StepStats:
        """Take one optimiser step with the gradient that lies in the engine."""
        lr = self._settings.lr_at(step) * objective.lr_scale
        if objective.has_own_optimizer:
            self._has_own_optimizer = True
            self.engine.swap_optimizer_state()
            stats = self.engine.step(lr)
            self.engine.swap_optimizer_state()
            return stats
        stats = self.engine.step(lr)
        if self._lookahead:
            self._lookahead.keep(lr, stats)
        return stats

    def _result(
        self, taken: Sequence[Gradients], updates: Sequence[StepStats], began: float
    ) -> StepResult:
        """Sum a meta-step up and advance the version."""
        taken_at = self.version
        # Without an adapter nobody pushes one; its count then follows theta's.
        self.version = (
            taken_at.next()
            if self.adapter is None
            else PolicyVersion(taken_at.theta + 1, taken_at.adapter)
        )
        totals, parts = [gradients.totals for gradients in taken], taken[0].parts
        counter = self._passes.counter
        tokens_2 = torch.tensor([counter.forward, counter.backward], dtype=torch.float64)
        tokens_2 = tokens_2.to(self.engine.device)
        self.engine.all_reduce_sum(tokens_2)
        return StepResult(
            branch=self.branch,
            version=taken_at,
            rl_loss=mean_over(totals, "rl_loss"),
            sft_loss=mean_over(totals, "sft_loss"),
            entropy=mean_over(totals, "entropy"),
            mismatch_kl=mean_over(totals, "mismatch_kl"),
            log_ratio_N=totals[0].log_ratio_N,
            kl_N=totals[0].kl_N,
            kl_ref=mean_over(totals, "kl_ref"),
            clip_fraction=mean_over(totals, "clip_fraction"),
            grad_norm=sum(stats.grad_norm for stats in updates) / len(updates),
            rl_grad_norm=parts.rl_norm,
            sft_grad_norm=parts.sft_norm,
            grad_cosine=parts.cosine,
            is_step_applied=all(stats.is_applied for stats in updates),
            num_parameters=sum(prod(shape) for _, shape in self.engine.metadata()),
            num_updates=len(updates),
            forward_tokens=int(tokens_2[0]),
            backward_tokens=int(tokens_2[1]),
            lookahead=self._lookahead.take_products() if self._lookahead else (),
            example_lookahead=self._lookahead.take_examples() if self._lookahead else (),
            duration_s=time.perf_counter() - began,
        )

    def compute(
        self,
        step: int,
        batch: PackedBatch,
        objective: Objective,
        bracket: PackedBatch | None = None,
        *,
        has_w: bool = True,
    ) -> Gradients:
        """Leave the fused theta-gradient in the engine; return w's gradients and the statistics.

        Args:
            step: k, for the cadence of statistics.
            batch: Data of this optimiser step.
            objective: The loss.
            bracket: Rollouts h_w^RL is measured on instead of the batch's.
            has_w: Whether gradients of w are wanted.
        """
        engine, rank = self.engine, self.engine.rank
        has_rl = objective.rl_weight > 0 and bool(batch.rl[rank])
        has_sft = objective.sft_weight > 0 and bool(batch.sft)
        assert has_rl or has_sft, "a step needs rollouts or demonstrations with a weight"
        every = self._settings.grad_stats_every
        is_measured = self._lookahead is not None or (every > 0 and step % every == 0)
        sums = StepSums(batch.num_samples, engine.device)
        kl_N: tuple[float, ...] | None = None
        rl_parts = total_parts = None
        adapter_rl: dict[str, torch.Tensor] = {}
        adapter_sft: dict[str, torch.Tensor] = {}
        needs_own_pass = bracket is not None or not self._passes.is_bracket_loss
        if has_rl and has_w and self.adapter is not None and needs_own_pass:
            adapter_rl, kl_N = self._bracket_phase(bracket or batch)
        if has_rl:
            self._passes.rollouts(batch, sums, is_bracket=False)
            gradient = self._take_adapter_gradients(1.0)
            adapter_rl = adapter_rl or gradient
            rl_parts = engine.gradient_parts() if is_measured else None
            if self._lookahead:
                self._lookahead.measure(rl_parts)
        if has_w and objective.resync_shadow and self.branch == "joint":
            has_gradient = has_rl and self._settings.is_gradient_shared
            self.send_state(self._groups[RESYNC_GROUP], has_gradient=has_gradient)
        if has_rl and objective.rl_weight != 1.0:
            engine.scale_gradient(objective.rl_weight)
        if has_sft:
            total_parts = self._sft_phase(batch, objective, sums, rl_parts, is_measured=is_measured)
            adapter_sft = self._take_adapter_gradients(objective.sft_weight)
        parts = GradientParts()
        if is_measured:
            parts = compare_parts(
                engine, rl_parts, total_parts, objective.rl_weight, objective.sft_weight
            )
        totals = sums.reduce(engine, batch.num_rl_tokens, has_rl=has_rl, has_sft=has_sft)
        if kl_N is not None:
            totals = replace(totals, kl_N=kl_N)
        adapter = None
        if self.adapter is not None:
            adapter = AdapterGradients(self.branch, self.version, adapter_rl, adapter_sft)
        return Gradients(totals, parts, adapter)

    def _bracket_phase(
        self, batch: PackedBatch
    ) -> tuple[dict[str, torch.Tensor], tuple[float, ...]]:
        """Return h_w^RL of the bracket's loss, and each sample's KL; drop theta's gradient."""
        sums = StepSums(batch.num_samples, self.engine.device)
        self._passes.rollouts(batch, sums, is_bracket=True)
        gradients = self._take_adapter_gradients(1.0)
        self.engine.zero_grad()
        totals = sums.reduce(self.engine, batch.num_rl_tokens, has_rl=True, has_sft=False)
        return gradients, totals.kl_N

    def _sft_phase(
        self,
        batch: PackedBatch,
        objective: Objective,
        sums: StepSums,
        rl_parts: list[torch.Tensor] | None,
        *,
        is_measured: bool,
    ) -> list[torch.Tensor] | None:
        """Add the SFT gradient, source by source; return copies of the fused one if measured."""
        total_parts: list[torch.Tensor] | None = None
        if self._lookahead and rl_parts:
            self._lookahead.begin(rl_parts, objective.rl_weight)
        for source in batch.sft:
            self._passes.demonstrations(source, objective, sums)
            if not is_measured:
                continue
            total_parts = self.engine.gradient_parts()
            if self._lookahead:
                self._lookahead.add_source(source, objective, total_parts)
        return total_parts

    @span("gradient of w")
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

    def _resync(self, batch: BranchBatch) -> None:
        """theta-hat becomes theta_k with g_theta^RL there (docs/algorithm.md section 3)."""
        has_gradient = self.receive_state(self._groups[RESYNC_GROUP])
        self._passes.remember_old_log_probs(batch.minibatches)
        if has_gradient:
            return
        self.engine.zero_grad()
        self._passes.rollouts(batch.minibatches[0], None, is_bracket=False)
        if self.adapter is not None:
            self.adapter.zero_grad()

    def send_state(self, group: BroadcastGroup, *, has_gradient: bool) -> None:
        """Send this rank's part of theta_k, and of h_theta^RL unless the shadow needs its own."""
        with self._moments_at_hand():
            send_state(group, self.engine, self.version.theta, has_gradient=has_gradient)

    def receive_state(self, group: BroadcastGroup) -> bool:
        """Become theta_k, with its optimiser state; return whether its gradient came as well."""
        with self._moments_at_hand():
            return receive_state(group, self.engine, self.version.theta)

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
        return [scores.log_prob_T.tolist() for scores in score_rows(self.engine, rows)]

    @torch.no_grad()
    def fit(self, rows: Sequence[TokenRow]) -> DemonstrationFit:
        """Return how well pi(theta, w) predicts the rows' responses; all ranks score the same."""
        return demonstration_fit(score_rows(self.engine, rows))

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
        with self._moments_at_hand():
            for key, tensor in self.engine.export_state():
                if writer:
                    writer.add(key, tensor)
            if self._has_own_optimizer:
                self.engine.swap_optimizer_state()
                for key, tensor in self.engine.export_state():
                    if writer and not key.startswith(MASTER):
                        writer.add(OWN_OPTIMIZER + key, tensor)
                self.engine.swap_optimizer_state()
        if writer:
            if self.adapter is not None:
                writer.add(ADAPTER_KEY, self.adapter.flatten())
            writer.finish({"theta": self.version.theta, "adapter": self.version.adapter})
        if self._lookahead:
            self._lookahead.save(folder)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote, on any number of ranks."""
        reader = StateReader(folder / self.branch)
        keys = [key for key, _, _ in state_layout(self.engine.metadata())]
        own_keys = [key if key.startswith(MASTER) else OWN_OPTIMIZER + key for key in keys]
        with self._moments_at_hand():
            if reader.has(OWN_OPTIMIZER + NUM_STEPS):
                self._has_own_optimizer = True
                own = reader.read(own_keys)
                self.engine.import_state((k.removeprefix(OWN_OPTIMIZER), t) for k, t in own)
                self.engine.swap_optimizer_state()
            self.engine.import_state(reader.read(keys))
        if self.adapter is not None:
            for _, flat in reader.read([ADAPTER_KEY]):
                self.adapter.load_flat(flat)
        self.version = PolicyVersion(reader.values["theta"], reader.values["adapter"])
        if self._lookahead:
            self._lookahead.load(folder)
