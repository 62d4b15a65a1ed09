"""One rank of a learner group; `joint` and `shadow` are this class.

    BranchBatch, Objective --compute--> gradients of theta and w --[re-sync]--> step --> StepResult

One step (docs/algorithm.md section 3), on every rank at the same time:
    scaffold phase: only where w is a scaffold and prompts failed (`scaffold`)  -> h_w^SFT read
    bracket phase: only where theta's RL loss is not the bracket's (another estimator, or `fresh`
        rollouts), separate backward passes             -> h_w^RL read, theta's gradient dropped
    RL phase: backward passes, unweighted                -> h_w^RL read
    re-sync, if due: `joint` sends theta_k and h_theta^RL, which `shadow` becomes
    theta's RL gradient is scaled by lambda
    SFT phase: backward passes, weighted 1 - lambda      -> h_w^SFT read, fused theta-gradient whole
    optimiser step; further minibatches follow in the same way, for theta alone
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import prod
from pathlib import Path

import torch

from coop_rl.algorithm.schedules import theta_rate
from coop_rl.errors import VersionError
from coop_rl.learner.engine import StepStats, TrainingEngine
from coop_rl.learner.gradient_step import Amplified, Gradients, GradientStep
from coop_rl.learner.groups import RESYNC_GROUP, W_GROUP
from coop_rl.learner.lookahead import Lookahead
from coop_rl.learner.one_step_shadow import OneStepShadow, with_kl
from coop_rl.learner.passes import (
    Passes,
    Reference,
    TokenCounter,
    demonstration_fit,
    score_rows,
)
from coop_rl.learner.peers import (
    BroadcastGroup,
    receive_masters,
    receive_state,
    receive_w,
    send_masters,
    send_state,
)
from coop_rl.learner.resolution import resolve
from coop_rl.learner.scaffold import Scaffold
from coop_rl.learner.settings import LearnerSettings
from coop_rl.learner.state import read_learner, write_learner
from coop_rl.learner.state_io import Digests, Finish, StateWriter
from coop_rl.learner.statistics import mean_of
from coop_rl.models.adapter import Adapter
from coop_rl.tracing.trace import span
from coop_rl.types import (
    AdapterGradients,
    Branch,
    BranchBatch,
    DemonstrationFit,
    LookaheadProducts,
    Objective,
    PackedBatch,
    PolicyVersion,
    SampleSums,
    SourceBatch,
    StepResult,
    TokenRow,
    Updates,
    Work,
)
from coop_rl.weights.receipt import Receipt, receipt_of

HOST = torch.device("cpu")


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
                engine,
                settings.section.betas,
                settings.section.max_grad_norm,
                settings.has_example_lookahead,
            )
        self._one_step_shadow: OneStepShadow | None = None
        if settings.gain_every and branch == "joint":
            self._one_step_shadow = OneStepShadow(
                engine,
                settings.section,
                every=settings.gain_every,
                is_rounded=settings.is_rounded,
            )
        self._scaffold: Scaffold | None = None
        if settings.scaffold and adapter:
            self._scaffold = Scaffold(engine, self._passes, adapter, settings.scaffold)
        self._has_second_optimizer = False

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
        of_scaffold = self._scaffold_gradients(batch.scaffold)
        self._passes.remember_old_log_probs(batch.minibatches)
        beside = self._measure_one_step_shadow(step, batch.minibatches[0])
        taken: list[Gradients] = []
        updates: list[StepStats] = []
        for index, minibatch in enumerate(batch.minibatches):
            is_first = index == 0
            bracket = batch.bracket if is_first else None
            taken.append(self.compute(step, minibatch, objective, bracket, has_w=is_first))
            if is_first and objective.resync_shadow and self.branch == "shadow":
                self._resync(batch)
            with self._moments_at_hand():
                updates.append(self._update(step, objective, taken[-1]))
        return self._result(taken, updates, beside), of_scaffold or taken[0].adapter

    def _scaffold_gradients(self, shown: SourceBatch | None) -> AdapterGradients | None:
        """Return what the meta-controller fits the scaffold by; None where w is none."""
        if self._scaffold is None:
            return None
        sft = self._scaffold.gradients(shown) if shown else {}
        return AdapterGradients(self.branch, self.version, {}, sft)

    def fit_scaffold(self, shown: SourceBatch) -> None:
        """Fit w anew to demonstrations, for second tries at their prompts (`lspo`)."""
        assert self._scaffold is not None, "w is no scaffold"
        self._scaffold.fit(shown, self._settings.scaffold_fit_steps)

    def serving_scaffold(self) -> AbstractContextManager[None]:
        """Let what is published be theta + s*B*A, where otherwise it is theta alone."""
        assert self._scaffold is not None, "w is no scaffold"
        return self._scaffold.adapter.switched_on()

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
        every = self._settings.section.grad_stats_every
        needs_parts = self._lookahead is not None or self._one_step_shadow is not None
        gradient = GradientStep(
            self.engine,
            self._passes,
            None if self._scaffold else self.adapter,
            self._lookahead,
            batch,
            objective,
            is_measured=needs_parts or (every > 0 and step % every == 0),
            amplified=self._amplify() if has_w and self._settings.amplifies else None,
        )
        if has_w:
            gradient.bracket_phase(bracket)
        gradient.rl_phase()
        if has_w and objective.resync_shadow and self.branch == "joint":
            self.send_state(has_gradient=gradient.has_rl and self._settings.is_gradient_shared)
        gradient.weigh_rl()
        gradient.sft_phase()
        return gradient.finish(self.branch, self.version)

    @span("optimizer")
    def _update(self, step: int, objective: Objective, gradients: Gradients) -> StepStats:
        """Take one optimiser step with the gradient that lies in the engine."""
        settings = self._settings
        lr = theta_rate(settings.section, objective, step, settings.num_steps)
        if self._one_step_shadow and gradients.rl_parts:
            self._one_step_shadow.step(gradients.rl_parts, lr)
        if objective.has_second_optimizer:
            self._has_second_optimizer = True
            self.engine.swap_optimizer_state()
            stats = self.engine.step(lr)
            self.engine.swap_optimizer_state()
            return stats
        stats = self.engine.step(lr)
        if self._lookahead:
            self._lookahead.keep(lr, stats)
        return stats

    def _amplify(self) -> Amplified | None:
        """Send theta to the shadow, which measures along theta-hat - theta."""
        group = self._groups[RESYNC_GROUP]
        if self.branch == "joint":
            send_masters(group, self.engine)
            return None
        theta = receive_masters(group, self.engine)
        return Amplified(theta, resolve(theta, self.engine.master_tensors(), self.engine))

    def _measure_one_step_shadow(self, step: int, batch: PackedBatch) -> SampleSums | None:
        """Score the rollouts under the RL-only step beside joint's last one, where that is due."""
        shadow = self._one_step_shadow
        if shadow is None:
            return None
        samples = None
        if shadow.is_due(step) and batch.num_samples:
            samples = shadow.measure(lambda: self._passes.log_ratios(batch))
        shadow.begin()
        return samples

    def _result(
        self, taken: Sequence[Gradients], updates: Sequence[StepStats], beside: SampleSums | None
    ) -> StepResult:
        """Sum a meta-step up and advance the version."""
        taken_at = self.version
        # Where nobody pushes w, its count follows theta's.
        is_pushed = self.adapter is not None and not self._settings.scaffold_fit_steps
        self.version = (
            PolicyVersion(taken_at.theta + 1, taken_at.adapter) if is_pushed else taken_at.next()
        )
        return StepResult(
            branch=self.branch,
            version=taken_at,
            means=mean_of([gradients.means for gradients in taken]),
            samples=taken[0].samples,
            parts=taken[0].parts,
            updates=Updates(
                num_taken=len(updates),
                grad_norm=sum(stats.grad_norm for stats in updates) / len(updates),
                is_applied=all(stats.is_applied for stats in updates),
            ),
            work=self._work(),
            lookahead=self._lookahead.products if self._lookahead else LookaheadProducts(),
            one_step_shadow=beside and with_kl(beside, taken[0].samples),
        )

    def _work(self) -> Work:
        """Sum what the passes since the last meta-step computed over the ranks."""
        counter, self._passes.counter = self._passes.counter, TokenCounter()
        device = self.engine.device
        tokens_2 = torch.tensor([counter.forward, counter.backward], dtype=torch.float64).to(device)
        self.engine.all_reduce_sum(tokens_2)
        forward, backward = tokens_2.tolist()
        return Work(
            num_parameters=sum(prod(shape) for _, shape in self.engine.metadata()),
            forward_tokens=int(forward),
            backward_tokens=int(backward),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        )

    @contextmanager
    def _moments_at_hand(self, *, are_needed: bool = True) -> Iterator[None]:
        """Bring AdamW's moments onto the device, where the config keeps them away otherwise."""
        is_away = are_needed and self.branch in self._settings.offloaded
        if is_away:
            self.engine.offload_moments(self.engine.device)
        yield
        if is_away:
            self.engine.offload_moments(HOST)

    def _resync(self, batch: BranchBatch) -> None:
        """theta-hat becomes theta_k with g_theta^RL there (docs/algorithm.md section 3)."""
        has_gradient = self.receive_state()
        self._passes.remember_old_log_probs(batch.minibatches)
        if has_gradient:
            return
        self.engine.zero_grad()
        self._passes.rollouts(batch.minibatches[0], None, is_bracket=False)
        if self.adapter is not None:
            self.adapter.zero_grad()

    def send_state(self, *, has_gradient: bool) -> None:
        """Send this rank's part of theta_k, and of h_theta^RL unless the shadow needs its own."""
        with self._moments_at_hand(are_needed=self._settings.copies_moments):
            send_state(
                self._groups[RESYNC_GROUP],
                self.engine,
                self.version.theta,
                has_gradient=has_gradient,
                has_moments=self._settings.copies_moments,
            )

    def receive_state(self) -> bool:
        """Become theta_k; return whether its gradient came as well."""
        with self._moments_at_hand(are_needed=self._settings.copies_moments):
            return receive_state(self._groups[RESYNC_GROUP], self.engine, self.version.theta)

    def receive_w(self) -> Receipt:
        """Receive the meta-controller's next w; return the checksums of what is held then.

        Raises:
            VersionError: It is not the next one.
        """
        assert self.adapter is not None, "a method without an adapter got a push of w"
        expected = self.version.adapter + 1
        self.adapter.load_flat(receive_w(self._groups[W_GROUP], expected, self.adapter.numel()))
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

    def save_state(self, folder: Path) -> Digests:
        """Write this rank's part of `folder/<branch>`, and what it keeps for guidance."""
        return self._take_in(folder, writes_later=False)()

    def snapshot_state(self, folder: Path) -> Finish:
        """Copy the same to host memory; what is returned writes it, in any thread."""
        return self._take_in(folder, writes_later=True)

    def _take_in(self, folder: Path, *, writes_later: bool) -> Finish:
        engine, version = self.engine, self.version
        writer = StateWriter(
            folder / self.branch, engine.rank, engine.world_size, writes_later=writes_later
        )
        has_second = self._has_second_optimizer
        with self._moments_at_hand():
            write_learner(writer, engine, self.adapter, has_second_optimizer=has_second)
        finishes: list[Finish] = [
            partial(writer.finish, {"theta": version.theta, "adapter": version.adapter})
        ]
        for part in (self._lookahead, self._one_step_shadow):
            if part:
                finishes.append(part.save(folder, writes_later=writes_later))
        return lambda: {name: digest for end in finishes for name, digest in end().items()}

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote, on any number of ranks."""
        with self._moments_at_hand():
            self.version, self._has_second_optimizer = read_learner(
                folder / self.branch, self.engine, self.adapter
            )
        for part in (self._lookahead, self._one_step_shadow):
            if part:
                part.load(folder)
