"""Finite differences of the entropy bonus and of the KL penalty in the learner, fp64."""

from dataclasses import replace

import pytest
import torch

from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.kl import KlEstimator
from coop_rl.config.estimators import GrpoRl, KlSettings, ReweightedRl, RlSettings
from coop_rl.config.roles import LearnerSection
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.learner import Learner
from coop_rl.learner.passes import LossSettings
from coop_rl.models import PolicyModel
from coop_rl.types import MicroBatch
from tests.learner.scenes import LEARNER, LOSS, RL_ONLY, build_batch, build_policy
from tests.learner.test_mathematics import in_double
from tests.models.tiny import tiny_model
from tests.support.local_engine import LocalEngine

WEIGHT = 0.7
CAP = 1.05
"""Of the weights of responses and of tokens; low, so that it limits some."""
EPSILON = 1e-6


class PenaltyScene:
    """Rollouts of advantage 0, so that the penalties are all there is, on a policy in fp64."""

    def __init__(self, loss: LossSettings, *, has_entropy_gradient: bool = True) -> None:
        self.policy, self.adapter = build_policy(
            chunk=1000, has_entropy_gradient=has_entropy_gradient
        )
        in_double(self.policy)
        for name, tensor in self.adapter.tensors.items():
            self.adapter.tensors[name] = tensor.detach().double().requires_grad_()
        self.reference = PolicyModel(tiny_model(seed=5, scale=0.05)).requires_grad_(False)
        in_double(self.reference)
        batch = build_batch(0, 1, micro_batch_tokens=10_000)
        (micro,) = batch.rl[0]
        self.micro = replace(micro, advantage_B=torch.zeros_like(micro.advantage_B))
        self.batch = replace(batch, rl=((self.micro,),))
        self.learner = Learner(
            replace(LEARNER, loss=loss),
            "joint",
            LocalEngine(self.policy, EngineSettings(LearnerSection())),
            self.adapter,
            self.reference,
        )
        self.leaves = [*self.policy.parameters(), *self.adapter.tensors.values()]

    def gradient(self) -> list[torch.Tensor]:
        """Of theta and w."""
        taken = self.learner.compute(0, self.batch, RL_ONLY, has_w=False).adapter
        assert taken is not None
        return [*self.learner.engine.gradient_parts(), *taken.rl.values()]

    def rows(self, policy: PolicyModel) -> tuple[list[list[float]], list[float]]:
        """Log-probs of each response, and the entropies of all tokens."""
        with torch.no_grad():
            scores = policy(*self.micro.grid)
        return by_row(self.micro, scores.log_prob_T.tolist()), scores.entropy_T.tolist()


def by_row(micro: MicroBatch, value_T: list[float]) -> list[list[float]]:
    values = iter(value_T)
    return [[next(values) for _ in range(count)] for count in micro.row_T.bincount().tolist()]


def assert_gradient_is(scene: PenaltyScene, loss) -> None:
    """Compare a directional derivative with the central difference of `loss`."""
    generator = torch.Generator().manual_seed(0)
    direction = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in scene.leaves
    ]
    analytic = sum(
        float((g.double() * d.reshape(g.shape)).sum())
        for g, d in zip(scene.gradient(), direction, strict=True)
    )
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for leaf, d in zip(scene.leaves, direction, strict=True):
                leaf.add_(sign * EPSILON * d)
            values.append(loss())
            for leaf, d in zip(scene.leaves, direction, strict=True):
                leaf.sub_(sign * EPSILON * d)
    numeric = (values[0] - values[1]) / (2 * EPSILON)
    assert abs(numeric) > 1e-4
    assert analytic == pytest.approx(numeric, rel=1e-4)


def test_entropy_bonus() -> None:
    """L = - weight * mean entropy of the sampled tokens."""
    scene = PenaltyScene(replace(LOSS, rl=RlSettings(entropy_weight=WEIGHT)))

    def loss() -> float:
        _, entropy_T = scene.rows(scene.policy)
        return -WEIGHT * sum(entropy_T) / len(entropy_T)

    assert_gradient_is(scene, loss)


def test_entropy_has_no_gradient_unless_the_policy_was_built_for_it() -> None:
    scene = PenaltyScene(
        replace(LOSS, rl=RlSettings(entropy_weight=WEIGHT)), has_entropy_gradient=False
    )
    assert not any(bool(part.any()) for part in scene.gradient())


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("rl", [ReweightedRl(ratio_cap=CAP), GrpoRl()])
def test_kl_penalty(rl: RlSettings, kind: KlEstimator) -> None:
    """L = weight / T * sum_t m_t c_t log pi(t), with m and c held still.

    m: the response's capped weight for the bracket's loss, the token's for the others. c: the
    log-ratio to the reference, summed from t on for k1.
    """
    penalty = KlSettings(weight=WEIGHT, estimator=kind)
    settings = replace(
        LOSS,
        estimator=build_estimator(rl, 12),
        rl=RlSettings(ratio_cap=CAP, mismatch_cap=CAP, kl=penalty),
    )
    scene = PenaltyScene(settings)
    base, _ = scene.rows(scene.policy)
    reference, _ = scene.rows(scene.reference)
    engine = by_row(scene.micro, scene.micro.behaviour_log_prob_T.tolist())
    factors = []
    for now, then, sampled in zip(base, reference, engine, strict=True):
        k1 = [a - b for a, b in zip(now, then, strict=True)]
        mismatch = [a - b for a, b in zip(now, sampled, strict=True)]
        for t in range(len(now)):
            log_weight = sum(mismatch) if isinstance(rl, ReweightedRl) else mismatch[t]
            weight = min(torch.tensor(log_weight).exp().item(), CAP)
            factors.append(weight * (sum(k1[t:]) if kind == "k1" else k1[t]))

    def loss() -> float:
        log_probs = [value for row in scene.rows(scene.policy)[0] for value in row]
        terms = zip(factors, log_probs, strict=True)
        return WEIGHT * sum(f * value for f, value in terms) / len(log_probs)

    assert_gradient_is(scene, loss)
