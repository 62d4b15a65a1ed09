"""`rollout.mask_truncated`: cut-off responses are scored, but the step is the one without them."""

from dataclasses import replace

import pytest
import torch

from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.methods.base import to_token_samples
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import load_config
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
from coop_rl.types import PackedBatch, PolicyVersion, Prompt, Reward, Rollout, ScoredGroup
from tests.learner.scenes import LEARNER, RL_ONLY, build_policy, build_samples, local_engine
from tests.whole_loop.rig import DEMO

ESTIMATORS = (
    ReweightedRl,
    GrpoRl,
    DrGrpoRl,
    DapoRl,
    RlooRl,
    ReinforcePlusPlusRl,
    GspoRl,
    CispoRl,
    PpoRl,
)
TERMS = {"kl": KlSettings(weight=0.3), "entropy_weight": 0.2}
MASKED = (1, 4)
SHAPE = PackShape(1, 30, mask_truncated=True)


def batches() -> tuple[PackedBatch, PackedBatch]:
    """The same rollouts, two of them masked, and without these two."""
    samples = build_samples(0)
    cut_off = [replace(s, is_truncated=i in MASKED) for i, s in enumerate(samples)]
    kept = [sample for i, sample in enumerate(samples) if i not in MASKED]
    return pack(cut_off, [], SHAPE), pack(kept, [], SHAPE)


def learner(rl: RlSettings) -> Learner:
    policy, adapter = build_policy(has_entropy_gradient=True, dtype=torch.float64)
    reference, other = build_policy(dtype=torch.float64)
    other.load_flat(torch.zeros(other.numel(), dtype=torch.float64))
    loss = LossSettings(build_estimator(rl, 12), rl, max_tokens=12)
    settings = replace(LEARNER, loss=loss)
    return Learner(settings, "joint", local_engine(policy), adapter, reference)


@pytest.mark.parametrize("section", ESTIMATORS, ids=lambda section: section.__name__)
def test_the_step_is_the_one_without_the_masked_responses(section: type[RlSettings]) -> None:
    """Policy gradient, KL and entropy bonus, of theta and of w; and their denominators."""
    found = []
    for batch in batches():
        one = learner(section(**TERMS))
        gradients = one.compute(0, batch, RL_ONLY)
        assert gradients.adapter is not None
        theta = torch.cat([part.flatten() for part in one.engine.gradient_parts()])
        w = torch.cat([part.flatten() for part in gradients.adapter.rl.values()])
        found.append((theta, w, gradients))
    (masked, w_masked, scored), (without, w_without, _) = found
    assert float(without.norm()) > 0.0
    torch.testing.assert_close(masked, without, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(w_masked, w_without, rtol=1e-9, atol=1e-12)
    # Scored all the same: the gain is about every response.
    assert all(scored.samples.log_ratio_N[i] != 0.0 for i in MASKED)
    assert len(scored.samples.log_ratio_N) == 7


def test_a_step_of_masked_responses_alone_has_no_gradient() -> None:
    samples = [replace(sample, is_truncated=True) for sample in build_samples(0)]
    one = learner(GrpoRl(**TERMS))
    one.compute(0, pack(samples, [], SHAPE), RL_ONLY)
    assert not any(bool(part.any()) for part in one.engine.gradient_parts())


def test_truncated_responses_still_count_in_their_groups_baseline() -> None:
    """As in DAPO's overlong filtering: what is masked is the loss."""
    version = PolicyVersion(0, 0)
    rollouts = [Rollout((1,) * n, (-1.0,) * n, "", n == 4, version) for n in (2, 4, 3, 2)]
    rewards = [Reward(float(value), bool(value)) for value in (1, 0, 1, 0)]
    group = ScoredGroup(Prompt("p", "", (5,), ""), tuple(rollouts), tuple(rewards))
    samples = to_token_samples([group], build_estimator(DrGrpoRl(), 4).advantages)
    assert [s.is_truncated for s in samples] == [False, True, False, False]
    assert [s.advantage for s in samples] == [0.5, -0.5, 0.5, -0.5]
    batch = pack(samples, [], SHAPE)
    (micro,) = batch.rl[0]
    by_row = dict(zip(micro.row_B.tolist(), micro.advantage_B.tolist(), strict=True))
    assert by_row == {0: 0.5, 1: 0.0, 2: 0.5, 3: -0.5}
    assert (batch.num_rl_tokens, batch.num_trained_tokens) == (11, 7)
    assert (batch.num_samples, batch.num_trained_samples) == (4, 3)


def test_it_is_off_unless_the_config_says_so() -> None:
    shapes = [
        PackShape.from_config(load_config(DEMO, overrides), 16)
        for overrides in ([], ["rollout.mask_truncated=true"])
    ]
    assert [shape.mask_truncated for shape in shapes] == [False, True]
    samples = [replace(sample, is_truncated=True) for sample in build_samples(0)]
    batch = pack(samples, [], shapes[0])
    assert batch.num_trained_tokens == batch.num_rl_tokens
    assert all(micro.is_trained_T is None for micro in batch.rl[0])
