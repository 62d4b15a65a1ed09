"""Responses that nobody could score are no samples: not wrong ones, no part of a baseline."""

from dataclasses import replace

import numpy as np
import pytest

from coop_rl.algorithm.estimators import RlEstimator
from coop_rl.algorithm.gain import _rewards
from coop_rl.algorithm.methods.base import to_token_samples
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config.estimators import DapoRl, DrGrpoRl, GrpoRl, ReinforcePlusPlusRl, RlooRl
from coop_rl.types import Reward, ScoredGroup
from tests.algorithm.estimators.scenes import built, scored_group

CRASHED = Reward(0.0, False, "crashed")
LOST = (1, 3)
ESTIMATORS = [built(s()) for s in (GrpoRl, DrGrpoRl, DapoRl, RlooRl, ReinforcePlusPlusRl)]


def with_lost(rewards: list[float]) -> ScoredGroup:
    """The rewards, with crashed ones in between."""
    group = scored_group([0.0] * (len(rewards) + len(LOST)))
    left = iter(Reward(value, value > 0.5) for value in rewards)
    return replace(
        group,
        rewards=tuple(CRASHED if i in LOST else next(left) for i in range(len(group.rewards))),
    )


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_the_others_are_trained_as_if_they_were_alone(estimator: RlEstimator) -> None:
    whole = scored_group([0.2, 1.0, 0.4])
    rewards = [1.0, 0.0, 0.5, 1.0]
    samples = to_token_samples([with_lost(rewards), whole], estimator.advantages)
    alone = estimator.advantages([scored_group(rewards), whole])
    kept = [sample.advantage for sample in samples if sample.is_valid]
    assert kept == np.concatenate(alone).tolist()
    assert [i for i, sample in enumerate(samples) if not sample.is_valid] == list(LOST)
    batch = pack(samples, [], PackShape(1, 4096))
    assert (batch.num_samples, batch.num_trained_samples) == (9, 7)
    assert batch.num_rl_tokens - batch.num_trained_tokens == 6


def test_a_group_with_one_scored_response_trains_none() -> None:
    for estimator in ESTIMATORS:
        samples = to_token_samples([_one_left()], estimator.advantages)
        assert not any(sample.is_valid or sample.advantage for sample in samples)


def _one_left() -> ScoredGroup:
    group = scored_group([1.0, 0.0, 0.0])
    return replace(group, rewards=(group.rewards[0], CRASHED, CRASHED))


def test_dynamic_sampling_replaces_what_differs_by_crashes_alone() -> None:
    estimator = built(DapoRl())
    assert not estimator.is_informative(with_lost([1.0, 1.0]))
    assert not estimator.is_informative(_one_left())
    assert estimator.is_informative(with_lost([1.0, 0.0]))


def test_they_neither_raise_nor_lower_the_gain() -> None:
    assert _rewards([with_lost([1.0, 0.0, 1.0, 1.0])]).tolist() == [[1, 0.75, 0, 0.75, 1, 1]]
    assert _rewards([scored_group([1.0, 0.0])]).tolist() == [[1, 0]]
