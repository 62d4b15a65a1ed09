"""docs/algorithm.md 8, item 5: no gradient depends on how a batch was cut, whatever the loss."""

from dataclasses import replace

import pytest
import torch

from coop_rl.algorithm.estimators import RlEstimator, build_estimator
from coop_rl.algorithm.kl import KlEstimator
from coop_rl.algorithm.methods.luffy import OnPolicy
from coop_rl.algorithm.methods.srft import RightAndWrong
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config.estimators import (
    CispoRl,
    DapoRl,
    DrGrpoRl,
    GrpoRl,
    GspoRl,
    KlSettings,
    PpoRl,
    ReinforcePlusPlusRl,
    ReweightedRl,
    RlooRl,
    RlSettings,
)
from coop_rl.learner.learner import Learner
from coop_rl.learner.passes import LossSettings
from coop_rl.types import DemonstrationTerm, Objective, PackedBatch
from tests.learner.engine_scenes import Setup, build_local
from tests.learner.scenes import LEARNER, LOSS, RL_ONLY, build_demonstrations, build_samples

CLIP = 0.03
"""Below the noise of the engine's log-probs, so that some tokens are clipped."""
ESTIMATORS: dict[str, RlEstimator] = {
    settings.kind: build_estimator(settings, 12)
    for settings in (
        ReweightedRl(),
        GrpoRl(clip=CLIP),
        DrGrpoRl(clip=CLIP),
        DapoRl(clip_low=CLIP, clip_high=CLIP),
        RlooRl(),
        ReinforcePlusPlusRl(clip=CLIP),
        GspoRl(clip_low=0.005, clip_high=0.005),
        CispoRl(clip_low=CLIP, clip_high=CLIP),
        PpoRl(clip=CLIP),
    )
} | {"luffy": OnPolicy(12), "srft": RightAndWrong(0.1)}
LIMITED = [name for name in ESTIMATORS if name not in ("reweighted", "rloo", "luffy", "srft")]
CUTS = [PackShape(1, 1), PackShape(1, 40), PackShape(3, 40)]
ALTOGETHER = PackShape(1, 10_000)
TERMS = {
    "weighted": DemonstrationTerm(),
    "phi": DemonstrationTerm("phi"),
    "shaped": DemonstrationTerm("shaped"),
}


def cut(shape: PackShape) -> PackedBatch:
    shown = [replace(d, weight=float(i)) for i, d in enumerate(build_demonstrations(0), start=1)]
    return pack(build_samples(0), shown, shape)


def learner_with(loss: LossSettings) -> Learner:
    setup = Setup(replace(LEARNER, loss=loss), has_reference=True, has_entropy_gradient=True)
    return build_local(setup)


def gradient(learner: Learner, batch: PackedBatch, objective: Objective) -> torch.Tensor:
    """theta's, summed over the ranks, which are gone through one after the other.

    The policy before the first update is taken to be the engine's, so that ratios are not 1.
    """
    for rank, micros in enumerate(batch.rl):
        learner.engine.rank = rank
        learner._passes._old = {id(micro): micro.behaviour_log_prob_T for micro in micros}
        learner.compute(0, batch, objective, has_w=False)
    return torch.cat([part.flatten() for part in learner.engine.gradient_parts()])


def assert_same_for_all_cuts(
    loss: LossSettings, objective: Objective, cuts: list[PackShape]
) -> None:
    expected = gradient(learner_with(loss), cut(ALTOGETHER), objective)
    assert expected.norm() > 0
    for shape in cuts:
        got = gradient(learner_with(loss), cut(shape), objective)
        assert (got - expected).norm() <= 1e-6 * expected.norm(), shape


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_estimator(kind: str) -> None:
    # An estimator that measures the entropy needs the ranks at the same time.
    cuts = CUTS[:2] if ESTIMATORS[kind].needs_entropy else CUTS
    assert_same_for_all_cuts(replace(LOSS, estimator=ESTIMATORS[kind]), RL_ONLY, cuts)


@pytest.mark.parametrize("kind", LIMITED)
def test_the_batch_is_one_that_clips(kind: str) -> None:
    learner = learner_with(replace(LOSS, estimator=ESTIMATORS[kind]))
    batch = cut(ALTOGETHER)
    learner._passes._old = {id(m): m.behaviour_log_prob_T for m in batch.rl[0]}
    assert 0.0 < learner.compute(0, batch, RL_ONLY).means.clip_fraction < 1.0


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("kind", ["reweighted", "grpo"])
def test_kl_and_entropy(kind: str, estimator: KlEstimator) -> None:
    kl = KlSettings(weight=1.0, estimator=estimator)
    loss = replace(LOSS, estimator=ESTIMATORS[kind], rl=RlSettings(kl=kl, entropy_weight=0.5))
    assert_same_for_all_cuts(loss, RL_ONLY, CUTS)


@pytest.mark.parametrize("kind", TERMS)
def test_every_term_of_the_demonstrations(kind: str) -> None:
    objective = Objective(0.0, 1.0, terms=(TERMS[kind],), sft_entropy_weight=0.5)
    assert_same_for_all_cuts(LOSS, objective, CUTS)


def test_terms_scaled_by_entropy() -> None:
    term = DemonstrationTerm(is_entropy_scaled=True)
    assert_same_for_all_cuts(LOSS, Objective(0.0, 1.0, terms=(term,)), CUTS[:2])
