"""docs/algorithm.md 9, items 1, 2, 4 and 5, re-sync and versions, on the plain torch engine."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from ray import cloudpickle

from coop_rl.config.roles import LearnerSection
from coop_rl.errors import VersionError
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.groups import RESYNC_GROUP, W_GROUP
from coop_rl.learner.learner import Learner
from coop_rl.learner.peers import send_w
from coop_rl.models import Adapter, PolicyModel, adapter_shapes
from coop_rl.types import Branch, DemonstrationTerm, MicroBatch, Objective, PackedBatch
from tests.learner.scenes import (
    ENGINE,
    LEARNER,
    RL_ONLY,
    SECTION,
    Pipe,
    build_batch,
    build_policy,
    local_learner,
    one_step,
    parameters_of,
    poison,
    state_at_resync,
    state_of,
)
from tests.models.tiny import TARGETS, tiny_model
from tests.support.local_engine import LocalEngine

SFT_ONLY = Objective(rl_weight=0.0, sft_weight=1.0)


def fresh_learner(has_adapter: bool) -> Learner:
    """A learner at the start of a run: w's B is zero, or there is no w at all."""
    model = tiny_model()
    adapter = None
    if has_adapter:
        adapter = Adapter(adapter_shapes(model, TARGETS), rank=2, alpha=4.0, seed=11)
        adapter.attach(model)
    return Learner(LEARNER, "joint", LocalEngine(PolicyModel(model), ENGINE), adapter)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("mix", [1.0, 0.0])
def test_bridge_at_the_ends_of_mix_is_rl_and_sft_bitwise(mix: float) -> None:
    """Item 1: mix=1 with w frozen is the RL run, mix=0 the SFT run, on recorded rollouts."""
    bridge, alone = fresh_learner(has_adapter=True), fresh_learner(has_adapter=False)
    objective = Objective(rl_weight=mix, sft_weight=1.0 - mix)
    for step in range(5):
        batch = build_batch(step, 1)
        a, _ = bridge.step(step, one_step(batch), objective)
        b, _ = alone.step(step, one_step(batch), objective)
        assert a.updates == b.updates
        assert a.samples == b.samples
    assert same(parameters_of(bridge.engine), parameters_of(alone.engine))
    assert not same(
        parameters_of(alone.engine), parameters_of(fresh_learner(has_adapter=False).engine)
    )


@pytest.mark.parametrize("mix", [0.5, 0.3])
def test_bracket_is_exactly_zero_at_equal_branches(mix: float) -> None:
    """Item 2: at theta-hat = theta, although `joint` also sees SFT and weighs RL by mix."""
    joint, shadow = local_learner(), local_learner("shadow")
    batch = build_batch(0, 1)
    a, joint_gradients = joint.step(0, one_step(batch), Objective(mix, 1 - mix))
    b, shadow_gradients = shadow.step(0, one_step(batch), RL_ONLY)
    assert joint_gradients is not None
    assert shadow_gradients is not None
    assert a.samples.log_ratio_N == b.samples.log_ratio_N
    assert same(joint_gradients.rl, shadow_gradients.rl)
    assert any(bool(g.any()) for g in joint_gradients.rl.values())
    assert not same(parameters_of(joint.engine), parameters_of(shadow.engine))


@pytest.mark.parametrize("tokens", [1, 40])
def test_gradients_do_not_depend_on_micro_batches(tokens: int) -> None:
    """Item 5, the part without ranks: any micro-batch split gives the same gradient."""
    taken = []
    for budget in (10_000, tokens):
        # Weights of the usual size; far larger ones amplify rounding, not errors of ours.
        model = tiny_model(scale=0.05)
        adapter = Adapter(adapter_shapes(model, TARGETS), rank=2, alpha=4.0, seed=11)
        adapter.load_flat(
            0.1 * torch.randn(adapter.numel(), generator=torch.Generator().manual_seed(12))
        )
        adapter.attach(model)
        engine = LocalEngine(PolicyModel(model), ENGINE)
        learner = Learner(LEARNER, "joint", engine, adapter)
        batch = build_batch(0, 1, micro_batch_tokens=budget)
        gradients = learner.compute(0, batch, Objective(0.3, 0.7))
        assert gradients.adapter is not None
        flat = torch.cat([g.reshape(-1) for g in learner.engine.gradient_parts()])
        w = torch.cat(
            [
                g.reshape(-1)
                for part in (gradients.adapter.rl, gradients.adapter.sft)
                for g in part.values()
            ]
        )
        taken.append((flat, w))
    for one, other in zip(*taken, strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-6


def test_part_norms_and_cosine_are_those_of_separate_runs() -> None:
    batch = build_batch(0, 1)
    both, _ = local_learner().step(0, one_step(batch), Objective(0.3, 0.7))
    rl, _ = local_learner().step(0, one_step(batch), RL_ONLY)
    sft, _ = local_learner().step(0, one_step(batch), SFT_ONLY)
    rl_norm, sft_norm = rl.updates.grad_norm, sft.updates.grad_norm
    assert both.parts.rl_norm == pytest.approx(rl_norm, rel=1e-5)
    assert both.parts.sft_norm == pytest.approx(sft_norm, rel=1e-5)
    squared = (0.3 * rl_norm) ** 2 + (0.7 * sft_norm) ** 2
    cross = 2 * 0.3 * 0.7 * rl_norm * sft_norm * both.parts.cosine
    assert both.updates.grad_norm**2 == pytest.approx(squared + cross, rel=1e-4)


class DoubleNorm(torch.nn.Module):
    """RMSNorm as the model has it, but without its cast to fp32, which would swamp differences."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.epsilon = norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


def in_double(module: torch.nn.Module) -> None:
    """Make a model compute in fp64 throughout."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if "RMSNorm" in type(child).__name__:
                setattr(parent, name, DoubleNorm(child))
    module.double()


class DoubleScene:
    """A policy with w in fp64, and both losses as plain functions of the leaves."""

    def __init__(self) -> None:
        self.policy, self.adapter = build_policy(chunk=1000)
        in_double(self.policy)
        for name, tensor in self.adapter.tensors.items():
            self.adapter.tensors[name] = tensor.detach().double().requires_grad_()
        self.learner = Learner(
            LEARNER,
            "joint",
            LocalEngine(self.policy, EngineSettings(LearnerSection())),
            self.adapter,
        )
        self.batch = build_batch(0, 1, micro_batch_tokens=10_000)
        self.leaves = [*self.policy.parameters(), *self.adapter.tensors.values()]

    def gradient(self, objective: Objective) -> list[torch.Tensor]:
        taken = self.learner.compute(0, self.batch, objective).adapter
        assert taken is not None
        w = taken.rl if objective.rl_weight else taken.sft
        return [*self.learner.engine.gradient_parts(), *w.values()]

    def loss(self, kind: str, weight_N: list[float]) -> float:
        """Written out, with the importance weights held still: they are inside a stop-gradient."""
        micro = (self.batch.rl if kind == "rl" else self.batch.sft[0].ranks)[0][0]
        with torch.no_grad():
            log_prob_T = self.policy(*micro.grid).log_prob_T
        b_T = micro.row_T
        factor_T = torch.ones(len(b_T), dtype=torch.float64)
        if kind == "rl":
            weight_B = torch.tensor([weight_N[r] for r in micro.row_B.tolist()])
            factor_T = (weight_B * micro.advantage_B.double())[b_T]
        count = self.batch.num_rl_tokens if kind == "rl" else self.batch.num_sft_tokens
        return -float((factor_T * log_prob_T).sum()) / count


@pytest.mark.parametrize(("kind", "objective"), [("rl", RL_ONLY), ("sft", SFT_ONLY)])
def test_finite_differences_in_theta_and_w(kind: str, objective: Objective) -> None:
    """Item 4: directional derivatives of both losses, fp64, 1e-4 relative."""
    scene = DoubleScene()
    samples = scene.learner.compute(0, scene.batch, RL_ONLY).samples
    weight_N = torch.tensor(samples.log_ratio_N, dtype=torch.float64).exp().clamp(max=5.0).tolist()
    scene.learner.engine.zero_grad()
    generator = torch.Generator().manual_seed(0)
    direction = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in scene.leaves
    ]
    epsilon, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for leaf, d in zip(scene.leaves, direction, strict=True):
                leaf.add_(sign * epsilon * d)
            values.append(scene.loss(kind, weight_N))
            for leaf, d in zip(scene.leaves, direction, strict=True):
                leaf.sub_(sign * epsilon * d)
    numeric = (values[0] - values[1]) / (2 * epsilon)
    analytic = sum(
        float((g.double() * d.reshape(g.shape)).sum())
        for g, d in zip(scene.gradient(objective), direction, strict=True)
    )
    assert analytic == pytest.approx(numeric, rel=1e-4)


def paired(
    *, is_gradient_shared: bool = True, copies_moments: bool = False, **section: Any
) -> tuple[Learner, Learner]:
    """Both branches, linked for a re-sync inside one process."""
    settings = replace(
        LEARNER,
        section=SECTION.model_copy(update=section),
        is_gradient_shared=is_gradient_shared,
        copies_moments=copies_moments,
    )
    engine = replace(ENGINE, optimizer=settings.section)
    branches: tuple[Branch, Branch] = ("joint", "shadow")
    policies = [build_policy() for _ in branches]
    joint, shadow = (
        Learner(settings, branch, LocalEngine(policy, engine), adapter)
        for branch, (policy, adapter) in zip(branches, policies, strict=True)
    )
    pipe = Pipe()
    joint.attach_group(RESYNC_GROUP, pipe.sender())
    shadow.attach_group(RESYNC_GROUP, pipe.receiver())
    return joint, shadow


@pytest.mark.parametrize("copies_moments", [True, False])
@pytest.mark.parametrize("is_gradient_shared", [True, False])
def test_resync_is_theta_plus_one_rl_step(
    *, is_gradient_shared: bool, copies_moments: bool
) -> None:
    """The re-synced shadow equals a learner at theta that steps by RL alone."""
    joint, shadow = paired(is_gradient_shared=is_gradient_shared, copies_moments=copies_moments)
    for step in range(3):
        joint.step(step, one_step(build_batch(step, 1)), Objective(0.5, 0.5))
        shadow.step(step, one_step(build_batch(step, 1)), RL_ONLY)
    twin = local_learner()
    state = state_at_resync(joint.engine, shadow.engine, copies_moments=copies_moments)
    twin.engine.import_state(iter(state.items()))
    batch = build_batch(9, 1)
    joint.step(3, one_step(batch), Objective(0.5, 0.5, resync_shadow=True))
    synced, _ = shadow.step(3, one_step(batch), Objective(1.0, 0.0, resync_shadow=True))
    alone, _ = twin.step(3, one_step(batch), RL_ONLY)
    assert same(state_of(shadow.engine), state_of(twin.engine))
    assert not same(parameters_of(shadow.engine), parameters_of(joint.engine))
    # Rollouts are gone through once, but where the shadow's are not joint's.
    assert synced.work.backward_tokens == alone.work.backward_tokens * (
        1 if is_gradient_shared else 2
    )


def test_a_resync_without_rollouts_at_joint_takes_the_shadows_own_gradient() -> None:
    joint, shadow = paired()
    joint.step(0, one_step(build_batch(0, 1)), Objective(0.5, 0.5))
    shadow.step(0, one_step(build_batch(0, 1)), RL_ONLY)
    twin = local_learner()
    state = state_at_resync(joint.engine, shadow.engine, copies_moments=False)
    twin.engine.import_state(iter(state.items()))
    batch = build_batch(9, 1)
    joint.step(1, one_step(batch), Objective(0.0, 1.0, resync_shadow=True))
    shadow.step(1, one_step(batch), Objective(1.0, 0.0, resync_shadow=True))
    twin.step(1, one_step(batch), RL_ONLY)
    assert same(state_of(shadow.engine), state_of(twin.engine))


@pytest.mark.parametrize("copies_moments", [True, False])
def test_a_shadow_without_signal_does_not_move_from_theta(*, copies_moments: bool) -> None:
    """All rewards equal: RL has nothing to say, so theta-hat is theta_k until the next re-sync.

    With a copy of theta's moments it goes on along the momentum of SFT.
    """
    joint, shadow = paired(copies_moments=copies_moments, weight_decay=0.0)
    for step in range(4):
        batch, is_due = one_step(without_signal(build_batch(step, 1))), step == 2
        theta = parameters_of(joint.engine)
        joint.step(step, batch, Objective(0.5, 0.5, resync_shadow=is_due))
        shadow.step(step, batch, Objective(1.0, 0.0, resync_shadow=is_due))
        if is_due:
            synced = theta
    assert same(parameters_of(shadow.engine), synced) is not copies_moments


def without_signal(batch: PackedBatch) -> PackedBatch:
    """Return the batch as it is where all rewards of a group are equal."""
    ranks = tuple(
        tuple(replace(m, advantage_B=torch.zeros_like(m.advantage_B)) for m in micros)
        for micros in batch.rl
    )
    return replace(batch, rl=ranks)


def test_resync_every_step_keeps_the_bracket_alive() -> None:
    """m = 1 with g^SFT != 0: the bracket is zero at the first step only."""
    joint, shadow = paired()
    for step in range(4):
        batch, is_due = build_batch(step, 1), step > 0
        _, a = joint.step(step, one_step(batch), Objective(0.5, 0.5, resync_shadow=is_due))
        _, b = shadow.step(step, one_step(batch), Objective(1.0, 0.0, resync_shadow=is_due))
        assert a is not None
        assert b is not None
        norm = sum(float((a.rl[n] - b.rl[n]).norm()) for n in a.rl)
        assert norm == 0.0 if step == 0 else norm > 1e-6


def test_a_push_of_another_version_is_refused() -> None:
    learner = local_learner()
    assert learner.adapter is not None
    pipe = Pipe()
    learner.attach_group(W_GROUP, pipe.receiver())
    w = learner.adapter.flatten() + 1.0
    send_w(pipe.sender(), 1, w)
    learner.receive_w()
    assert learner.version.adapter == 1
    assert torch.equal(learner.adapter.flatten(), w)
    send_w(pipe.sender(), 3, w)
    with pytest.raises(VersionError):
        learner.receive_w()


def test_non_finite_gradient_skips_the_step() -> None:
    learner = local_learner()
    before = parameters_of(learner.engine)
    batch: PackedBatch = poison(build_batch(0, 1), rank=0)
    result: Any = learner.step(0, one_step(batch), RL_ONLY)[0]
    assert not result.updates.is_applied
    assert same(before, parameters_of(learner.engine))


def test_what_crosses_actors_is_no_larger_when_pickled() -> None:
    """A pickled view of a flat tensor takes the whole along: 8 GB for SmolLM2's adapter, once."""
    learner = local_learner()
    batch = build_batch(0, 1)
    _, gradients = learner.step(0, one_step(batch), Objective(0.5, 0.5))
    assert gradients is not None
    for value, tensors in (
        (gradients, [*gradients.rl.values(), *gradients.sft.values()]),
        (batch, [t for m in (*batch.rl[0], *batch.sft[0].ranks[0]) for t in tensors_of(m)]),
    ):
        alone = sum(len(cloudpickle.dumps(t.clone())) for t in tensors)
        assert len(cloudpickle.dumps(value)) < 1.2 * alone + 2000


def tensors_of(micro: MicroBatch) -> list[torch.Tensor]:
    own = (micro.row_T, micro.row_B, micro.advantage_B, micro.behaviour_log_prob_T)
    return [*(part for part in micro.grid if part is not None), *own]


@pytest.mark.parametrize("objective", [Objective(1.0, 0.4), Objective(0.7, 0.3)])
def test_fused_gradient_is_the_weighted_sum_of_both_parts(objective: Objective) -> None:
    """`sum` and `chord`: weights need not add to one; each part is that of a run of its own."""
    batch = build_batch(0, 1)
    parts = {}
    for name, one in (("rl", RL_ONLY), ("sft", SFT_ONLY), ("both", objective)):
        learner = local_learner()
        learner.compute(0, batch, one)
        parts[name] = torch.cat([g.flatten() for g in learner.engine.gradient_parts()])
    expected = objective.rl_weight * parts["rl"] + objective.sft_weight * parts["sft"]
    assert (parts["both"] - expected).norm() <= 1e-6 * expected.norm()


def test_phi_weights_change_the_gradient_and_not_the_reported_loss() -> None:
    batch = build_batch(0, 1)
    phi = Objective(0.0, 1.0, terms=(DemonstrationTerm("phi"),))
    plain, weighted = (local_learner().step(0, one_step(batch), o)[0] for o in (SFT_ONLY, phi))
    assert weighted.means.sft_loss == plain.means.sft_loss
    assert weighted.updates.grad_norm < 0.3 * plain.updates.grad_norm


def test_rate_of_a_step_is_scaled_by_its_objective() -> None:
    batch = build_batch(0, 1)
    taken = []
    for lr, scale in ((SECTION.lr, 3.0), (3.0 * SECTION.lr, 1.0)):
        learner = local_learner()
        section = SECTION.model_copy(update={"lr": lr})
        learner._settings = replace(LEARNER, section=section)
        learner.step(0, one_step(batch), replace(SFT_ONLY, lr_scale=scale))
        taken.append(parameters_of(learner.engine))
    assert all(torch.allclose(taken[0][name], taken[1][name], rtol=1e-6) for name in taken[0])
