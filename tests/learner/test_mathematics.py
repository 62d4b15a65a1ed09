"""method.md section 9, items 1, 2, 4 and the shadow's re-sync, on the plain torch engine."""

from pathlib import Path
from typing import Any

import pytest
import torch

from coop_rl.errors import VersionError
from coop_rl.learner.build import build_meta_controller, build_policy
from coop_rl.learner.learner import Learner
from coop_rl.learner.local_engine import LocalEngine
from coop_rl.types import Branch, Objective
from tests.tiny import config_for, random_batch, save_tiny

RL_ONLY = Objective(rl_weight=1.0, sft_weight=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def learner_for(model: Path, branch: Branch = "joint", **sections: Any) -> Learner:
    config = config_for(model, **sections)
    policy, adapter = build_policy(config)
    return Learner(config, branch, LocalEngine(policy, config.learner), adapter)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in learner.engine.full_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def randomise(learner: Learner) -> None:
    """Give w a non-zero B, so that every factor has a gradient."""
    assert learner.adapter is not None
    flat = learner.adapter.flatten()
    learner.adapter.load_flat(flat + 0.05 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(3)))


class Wire:
    """Stands for a process group between two learners in one process: a queue."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []
        self.is_sender = True

    def broadcast(self, tensor: torch.Tensor, src: int = 0, *, what: str = "") -> None:
        if self.is_sender:
            self.sent.append(tensor.clone())
        else:
            tensor.copy_(self.sent.pop(0))


@pytest.mark.parametrize(("kind", "mix"), [("rl", 1.0), ("sft", 0.0)])
def test_bridge_at_the_ends_of_mix_is_rl_and_sft_bitwise(model, kind, mix) -> None:
    """Item 1: mix=1 with w frozen is the RL run, mix=0 the SFT run, on recorded rollouts."""
    bridge = learner_for(model, method={"mix": mix}, meta={"w_objective": "frozen"})
    alone = learner_for(model, method={"kind": kind})
    objective = Objective(rl_weight=mix, sft_weight=1.0 - mix)
    for step in range(5):
        batch = random_batch(seed=step)
        a, _ = bridge.step(step, batch, objective)
        b, _ = alone.step(step, batch, objective)
        assert (a.grad_norm, a.log_ratio_N) == (b.grad_norm, b.log_ratio_N)
    assert same(weights(bridge), weights(alone))
    assert not same(weights(alone), weights(learner_for(model)))


def test_equal_branches_give_bitwise_equal_rl_gradients(model) -> None:
    """Item 2: at theta-hat = theta the bracket is exactly zero although `joint` also sees SFT."""
    joint, shadow = learner_for(model), learner_for(model, "rl_only")
    randomise(joint)
    randomise(shadow)
    batch = random_batch()
    a, joint_gradients = joint.step(0, batch, Objective(0.5, 0.5))
    b, shadow_gradients = shadow.step(0, batch, RL_ONLY)
    assert joint_gradients is not None
    assert shadow_gradients is not None
    assert a.log_ratio_N == b.log_ratio_N
    for name, gradient in joint_gradients.rl.items():
        torch.testing.assert_close(gradient, shadow_gradients.rl[name], rtol=1e-6, atol=1e-9)
    assert not same(weights(joint), weights(shadow))


def test_unit_mix_makes_the_zero_bracket_bitwise(model) -> None:
    """With a power of two as mix, scaling the loss is exact: the bracket is 0.0, not just small."""
    joint, shadow = learner_for(model), learner_for(model, "rl_only")
    batch = random_batch()
    _, a = joint.step(0, batch, Objective(0.5, 0.5))
    _, b = shadow.step(0, batch, RL_ONLY)
    assert a is not None
    assert b is not None
    assert same(a.rl, b.rl)
    assert any(bool(g.any()) for g in a.rl.values())


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_gradients_do_not_depend_on_micro_batches(model, tokens) -> None:
    reference, other = learner_for(model), learner_for(model)
    randomise(reference)
    randomise(other)
    a, ga = reference.step(0, random_batch(micro_batch_tokens=10_000), Objective(0.3, 0.7))
    b, gb = other.step(0, random_batch(micro_batch_tokens=tokens), Objective(0.3, 0.7))
    assert ga is not None
    assert gb is not None
    for x, y in ((ga.rl, gb.rl), (ga.sft, gb.sft)):
        for name in x:
            torch.testing.assert_close(x[name], y[name], rtol=1e-5, atol=1e-6 * float(x[name].norm()))
    for field in ("rl_loss", "sft_loss", "grad_norm", "rl_grad_norm", "sft_grad_norm", "grad_cosine"):
        assert vars_of(a)[field] == pytest.approx(vars_of(b)[field], rel=1e-5, abs=1e-7)


def vars_of(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__slots__}


def test_part_norms_and_cosine_are_those_of_separate_runs(model) -> None:
    batch = random_batch()
    both, _ = learner_for(model).step(0, batch, Objective(0.3, 0.7))
    rl, _ = learner_for(model).step(0, batch, Objective(1.0, 0.0))
    sft, _ = learner_for(model).step(0, batch, Objective(0.0, 1.0))
    assert both.rl_grad_norm == pytest.approx(rl.grad_norm, rel=1e-5)
    assert both.sft_grad_norm == pytest.approx(sft.grad_norm, rel=1e-5)
    squared = (0.3 * rl.grad_norm) ** 2 + (0.7 * sft.grad_norm) ** 2
    cross = 2 * 0.3 * 0.7 * rl.grad_norm * sft.grad_norm * both.grad_cosine
    assert both.grad_norm**2 == pytest.approx(squared + cross, rel=1e-4)


@pytest.mark.parametrize("part", ["rl", "sft"])
def test_finite_differences_in_theta_and_w(model, part) -> None:
    """Item 4: directional derivatives of both losses, fp64, 1e-4 relative."""
    learner = learner_for(model)
    randomise(learner)
    assert learner.adapter is not None
    policy = learner.engine.policy.double()
    for name, tensor in learner.adapter.tensors.items():
        learner.adapter.tensors[name] = tensor.detach().double().requires_grad_()
    batch = random_batch(micro_batch_tokens=10_000)
    objective = RL_ONLY if part == "rl" else Objective(0.0, 1.0)
    leaves = [*policy.parameters(), *learner.adapter.tensors.values()]
    g = torch.Generator().manual_seed(0)
    direction = [torch.randn(t.shape, generator=g, dtype=torch.float64) for t in leaves]
    weight_N = importance_weights(learner, batch)

    def loss() -> float:
        """The loss with the importance weights held still: they are inside a stop-gradient."""
        total = 0.0
        for micro in (batch.rl if part == "rl" else batch.sft)[0]:
            with torch.no_grad():
                log_prob_T = policy(micro.token_ids_BL, micro.is_response_BL).log_prob_T
            row_T = micro.row_B[micro.is_response_BL.nonzero()[:, 0]]
            advantage = dict(zip(micro.row_B.tolist(), micro.advantage_B.tolist(), strict=True))
            factor_T = torch.tensor(
                [weight_N[r] * advantage[r] if part == "rl" else 1.0 for r in row_T.tolist()],
                dtype=torch.float64,
            )
            count = batch.num_rl_tokens if part == "rl" else batch.num_sft_tokens
            total -= float((factor_T * log_prob_T).sum()) / count
        return total

    epsilon = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for leaf, d in zip(leaves, direction, strict=True):
                leaf.add_(sign * epsilon * d)
            values.append(loss())
            for leaf, d in zip(leaves, direction, strict=True):
                leaf.sub_(sign * epsilon * d)
    numeric = (values[0] - values[1]) / (2 * epsilon)
    if part == "rl":
        _, w_gradient = learner._rl_phase(batch, 1.0, torch.zeros(batch.num_samples, dtype=torch.float64))
    else:
        _, w_gradient = learner._sft_phase(batch, objective.sft_weight)
    gradients = [p.grad for p in policy.parameters()] + list(w_gradient.values())
    analytic = sum(float((x * d).sum()) for x, d in zip(gradients, direction, strict=True) if x is not None)
    assert analytic == pytest.approx(numeric, rel=1e-4)


def importance_weights(learner: Learner, batch: Any) -> list[float]:
    log_ratio = torch.zeros(batch.num_samples, dtype=torch.float64)
    learner._rl_phase(batch, 1.0, log_ratio)
    learner.engine.drop_gradient()
    return log_ratio.exp().clamp(max=5.0).tolist()


def run_pair(model: Path, steps: int, resync_every: int) -> tuple[Learner, Learner, list[float]]:
    """Run both branches side by side with re-syncs; return them and the bracket norms."""
    joint, shadow = learner_for(model), learner_for(model, "rl_only")
    wire = Wire()
    for learner in (joint, shadow):
        learner.attach_group("resync", wire)
    brackets = []
    for step in range(steps):
        is_due = step > 0 and step % resync_every == 0
        batch = random_batch(seed=step)
        wire.is_sender = True
        _, a = joint.step(step, batch, Objective(0.5, 0.5, resync_shadow=is_due))
        wire.is_sender = False
        _, b = shadow.step(step, batch, Objective(1.0, 0.0, resync_shadow=is_due))
        assert wire.sent == []
        assert a is not None
        assert b is not None
        brackets.append(sum(float((a.rl[n] - b.rl[n]).norm()) for n in a.rl))
    return joint, shadow, brackets


def test_resync_is_theta_plus_one_rl_step_with_thetas_optimiser_state(model) -> None:
    """The shadow after a re-sync equals a copy of the whole joint learner that steps by RL alone."""
    joint, shadow = learner_for(model), learner_for(model, "rl_only")
    wire = Wire()
    joint.attach_group("resync", wire)
    shadow.attach_group("resync", wire)
    for step in range(3):
        joint.step(step, random_batch(seed=step), Objective(0.5, 0.5))
        shadow.step(step, random_batch(seed=step), RL_ONLY)
    twin = learner_for(model)
    state = dict(joint.engine.export_state())
    twin.engine.import_state(lambda key, _shape: state[key].clone())
    batch = random_batch(seed=9)
    wire.is_sender = True
    joint.step(3, batch, Objective(0.5, 0.5, resync_shadow=True))
    wire.is_sender = False
    shadow.step(3, batch, Objective(1.0, 0.0, resync_shadow=True))
    twin.step(3, batch, RL_ONLY)
    assert same(weights(shadow), weights(twin))
    assert not same(weights(shadow), weights(joint))


def test_resync_every_step_keeps_the_bracket_alive(model) -> None:
    """m = 1 with g^SFT != 0: the bracket is zero at the first step only."""
    _, _, brackets = run_pair(model, steps=4, resync_every=1)
    assert brackets[0] == 0.0
    assert all(b > 1e-6 for b in brackets[1:])


def test_export_and_import_replay_bitwise(model) -> None:
    learner = learner_for(model)
    for step in range(3):
        learner.step(step, random_batch(seed=step), Objective(0.5, 0.5))
    state = {k: t.clone() for k, t in learner.engine.export_state()}
    copy = learner_for(model)
    copy.engine.import_state(lambda key, _shape: state[key])
    for step in range(3, 6):
        learner.step(step, random_batch(seed=step), Objective(0.5, 0.5))
        copy.step(step, random_batch(seed=step), Objective(0.5, 0.5))
    assert same(weights(learner), weights(copy))


def test_meta_controller_refuses_unequal_versions_and_pushes_the_next(model) -> None:
    config = config_for(model)
    joint, shadow = learner_for(model), learner_for(model, "rl_only")
    assert joint.adapter is not None
    meta = build_meta_controller(config, joint.adapter.shapes)
    assert torch.equal(meta.adapter.flatten(), joint.adapter.flatten())
    wire = Wire()
    meta.attach_group("guidance", wire)
    joint.attach_group("guidance", wire)
    _, a = joint.step(0, random_batch(), Objective(0.5, 0.5))
    shadow.step(0, random_batch(), RL_ONLY)
    _, late = shadow.step(1, random_batch(), RL_ONLY)
    assert a is not None
    with pytest.raises(VersionError, match=r"joint theta0.adapter0, rl_only theta1.adapter0"):
        meta.update(a, late, None)
    skipped = meta.update(a, a, None)
    assert skipped.skipped == "low_ess"
    assert skipped.update_norm == 0
    meta.push()
    wire.is_sender = False
    joint.receive_guidance()
    assert joint.version.adapter == 1
    wire.sent.append(torch.cat([torch.tensor([5.0]), joint.adapter.flatten()]))
    with pytest.raises(VersionError, match="got adapter version 5, expected 2"):
        joint.receive_guidance()


def test_nan_gradient_skips_the_step(model) -> None:
    learner = learner_for(model)
    before = weights(learner)
    batch = random_batch()
    for micro in batch.rl[0]:
        micro.advantage_B.fill_(float("nan"))
    result, _ = learner.step(0, batch, RL_ONLY)
    assert not result.is_step_applied
    assert same(before, weights(learner))
