"""theta-hat beside joint's own step, and theta-hat moved further away where rounding hides it."""

from dataclasses import replace

import pytest
import torch

from coop_rl.algorithm.bracket import adapter_gradient
from coop_rl.learner.groups import RESYNC_GROUP
from coop_rl.learner.learner import Learner
from coop_rl.learner.one_step_shadow import OneStepShadow, with_kl
from coop_rl.learner.resolution import SPACINGS, resolve
from coop_rl.types import AdapterGradients, Branch, Objective, Resolution, SampleSums
from tests.learner.scenes import (
    ENGINE,
    LEARNER,
    LOSS,
    MIXED,
    RL_ONLY,
    SECTION,
    Pipe,
    PipeEnd,
    build_batch,
    build_policy,
    local_learner,
    one_step,
    parameters_of,
)
from tests.support.local_engine import LocalEngine


def joint_measuring(every: int = 1) -> Learner:
    policy, adapter = build_policy()
    return Learner(
        replace(LEARNER, gain_every=every), "joint", LocalEngine(policy, ENGINE), adapter
    )


def test_the_one_step_shadow_is_theta_after_rl_alone() -> None:
    """At the first step a twin by RL alone is there; later its moments are those of RL alone."""
    joint, twin = joint_measuring(), local_learner()
    joint.step(0, one_step(build_batch(0, 1)), MIXED)
    twin.step(0, one_step(build_batch(0, 1)), RL_ONLY)
    shadow = joint._one_step_shadow
    assert shadow is not None
    for ours, theirs in zip(shadow._theta_hat, parameters_of(twin.engine).values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-7)
    for parts, other in zip(joint.engine.master_parts(), shadow._theta_hat, strict=True):
        assert not torch.equal(parts, other)


def test_its_log_ratios_are_the_twins() -> None:
    joint, twin = joint_measuring(), local_learner()
    for step in range(2):
        batch = one_step(build_batch(step, 1))
        result, _ = joint.step(step, batch, MIXED)
        seen, _ = twin.step(step, batch, RL_ONLY)
    assert result.one_step_shadow is not None
    ours = result.one_step_shadow.log_ratio_N
    assert ours == pytest.approx(seen.samples.log_ratio_N, abs=1e-5)
    assert ours != pytest.approx(result.samples.log_ratio_N, abs=1e-3)


def test_measuring_leaves_joint_as_it_was() -> None:
    measuring, plain = joint_measuring(every=2), local_learner()
    due = []
    for step in range(5):
        batch = one_step(build_batch(step, 1))
        result, _ = measuring.step(step, batch, MIXED)
        plain.step(step, batch, MIXED)
        due.append(result.one_step_shadow is not None)
    assert due == [False, False, True, False, True]
    ours, theirs = (parameters_of(learner.engine) for learner in (measuring, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_a_signal_its_moments_hold_no_momentum_of_sft() -> None:
    """All rewards equal: RL alone stays at theta_k, decay aside, whatever SFT did before."""
    section = SECTION.model_copy(update={"weight_decay": 0.0})
    policy, adapter = build_policy()
    engine = LocalEngine(policy, replace(ENGINE, optimizer=section))
    settings = replace(LEARNER, section=section, gain_every=1)
    joint = Learner(settings, "joint", engine, adapter)
    for step in range(3):
        before = [part.clone() for part in engine.master_parts()]
        batch = build_batch(step, 1)
        silent = tuple(
            tuple(replace(m, advantage_B=torch.zeros_like(m.advantage_B)) for m in micros)
            for micros in batch.rl
        )
        joint.step(step, one_step(replace(batch, rl=silent)), MIXED)
        shadow = joint._one_step_shadow
        assert shadow is not None
        assert all(torch.equal(a, b) for a, b in zip(shadow._theta_hat, before, strict=True))


def test_a_gradient_that_is_no_number_measures_nothing() -> None:
    engine = local_learner().engine
    shadow = OneStepShadow(engine, SECTION, every=1, is_rounded=False)
    shadow.begin()
    shadow.step([torch.full_like(part, torch.nan) for part in engine.master_parts()], 0.1)
    assert not shadow.is_due(1)
    shadow.step([torch.ones_like(part) for part in engine.master_parts()], 0.1)
    assert shadow.is_due(1)


def test_its_kl_differs_from_joints_as_its_log_probs_do() -> None:
    joint = SampleSums((0.1, 0.2), (1.0, 2.0))
    assert with_kl(SampleSums((0.4, 0.1), ()), joint).kl_N == pytest.approx((1.3, 1.9))
    assert with_kl(SampleSums((0.4, 0.1), ()), SampleSums((0.1, 0.2), ())).kl_N == ()


class Alone:
    """One rank."""

    device = torch.device("cpu")

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Nobody else is there."""


def test_what_bf16_hides_is_found_and_brought_out() -> None:
    """Weights near 0.02 lie 1.2e-4 apart; steps of 2.5e-6 change hardly any of them."""
    generator = torch.Generator().manual_seed(1)
    theta = [torch.randn(4000, generator=generator) * 0.02 for _ in range(2)]
    step = [2.5e-6 * torch.sign(torch.randn(4000, generator=generator)) for _ in range(2)]
    step[0][:1000] = 0.0  # never touched: they say nothing about rounding
    rounded = sum(
        int((t.bfloat16() != (t + s).bfloat16()).sum()) for t, s in zip(theta, step, strict=True)
    )
    assert rounded / 7000 < 0.1

    def beyond(factor: float) -> list[torch.Tensor]:
        return [t + factor * s for t, s in zip(theta, step, strict=True)]

    found = resolve(theta, beyond(1.0), Alone())
    moved = sum(float(t[s != 0].abs().sum()) for t, s in zip(theta, step, strict=True)) / 7000
    assert found.amplification == pytest.approx(SPACINGS * moved / 128 / 2.5e-6, rel=1e-2)
    assert found.differing > 0.3
    # Steps that bf16 shows by themselves are left as they are, and equal weights are no noise.
    assert resolve(theta, beyond(1000.0), Alone()).amplification == 1.0
    assert resolve(theta, beyond(0.0), Alone()) == Resolution()


def bracket_of(*, amplifies: bool) -> tuple[torch.Tensor, SampleSums, SampleSums]:
    """The bracket after two steps apart, from branches in fp32."""
    settings = replace(
        LEARNER, amplifies=amplifies, section=SECTION.model_copy(update={"lr": 1e-5})
    )
    pipe = Pipe()
    ends: dict[Branch, PipeEnd] = {"joint": pipe.sender(), "shadow": pipe.receiver()}
    branches = []
    for name, end in ends.items():
        policy, adapter = build_policy()
        branches.append(Learner(settings, name, LocalEngine(policy, ENGINE), adapter))
        branches[-1].attach_group(RESYNC_GROUP, end)
    for step in range(3):
        batch = one_step(build_batch(step, 1))
        ours, at_joint = branches[0].step(step, batch, Objective(0.5, 0.5))
        theirs, at_shadow = branches[1].step(step, batch, RL_ONLY)
        if step == 0:
            assert float(flat_bracket(at_joint, at_shadow).norm()) == 0.0
    return flat_bracket(at_joint, at_shadow), ours.samples, theirs.samples


def flat_bracket(joint: AdapterGradients | None, shadow: AdapterGradients | None) -> torch.Tensor:
    assert joint is not None
    assert shadow is not None
    bracket, _ = adapter_gradient(
        "cooperative", 1.0, replace(joint, sft={}), shadow, torch.Generator()
    )
    return torch.cat([tensor.reshape(-1) for tensor in bracket.values()])


def test_the_amplified_bracket_is_the_bracket() -> None:
    """In fp32, where it would not be needed: to second order, with the samples' log-probs."""
    (plain, at_theta, at_shadow), (amplified, _, relative) = (
        bracket_of(amplifies=a) for a in (False, True)
    )
    assert torch.nn.functional.cosine_similarity(plain, amplified, dim=0) > 0.995
    assert float(amplified.norm() / plain.norm()) == pytest.approx(1.0, abs=0.02)
    assert relative.is_relative
    assert relative.resolution.amplification > 2.0
    pairs = zip(at_shadow.log_ratio_N, at_theta.log_ratio_N, strict=True)
    steps = [own - other for own, other in pairs]
    assert relative.log_ratio_N == pytest.approx(steps, rel=0.02, abs=1e-6)


def test_the_entropy_bonus_steers_theta_and_stays_out_of_the_bracket() -> None:
    """J_RL has no entropy: w's RL gradient is the same with a bonus in theta's loss and without."""
    taken = []
    for weight in (0.0, 50.0):
        rl = LOSS.rl.model_copy(update={"entropy_weight": weight})
        policy, adapter = build_policy(has_entropy_gradient=True)
        settings = replace(LEARNER, loss=replace(LOSS, rl=rl))
        learner = Learner(settings, "joint", LocalEngine(policy, ENGINE), adapter)
        result, gradients = learner.step(0, one_step(build_batch(0, 1)), RL_ONLY)
        assert gradients is not None
        taken.append((gradients.rl, result.updates.grad_norm))
    (plain, norm), (with_bonus, bonus_norm) = taken
    assert all(torch.allclose(plain[n], with_bonus[n], rtol=1e-5, atol=1e-9) for n in plain)
    assert norm != pytest.approx(bonus_norm, rel=1e-3)
