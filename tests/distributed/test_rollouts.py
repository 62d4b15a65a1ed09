"""Which prompts a step samples: the seeded ones; with dynamic sampling, others in their place."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coop_rl.algorithm.methods import build_method
from coop_rl.config import load_config
from coop_rl.data.collection import Mixture
from coop_rl.data.order import SeededOrder
from coop_rl.distributed.generation import Generation
from coop_rl.distributed.rollouts import RayRollouts
from coop_rl.errors import VersionError
from coop_rl.observability.stages import Stages
from coop_rl.types import (
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    SamplingSettings,
    ScoredGroup,
)

VERSION = PolicyVersion(0, 0)


@dataclass
class Answers(Generation):
    """Groups whose rewards are all equal for the prompts named, mixed for the others."""

    dull: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    waiting: list[tuple[Prompt, Callable[[ScoredGroup], None]]] = field(default_factory=list)
    version: PolicyVersion = VERSION
    seeds: list[int] = field(default_factory=list)

    @property
    def num_under_way(self) -> int:
        return len(self.waiting)

    def start(
        self,
        prompt: Prompt,
        sampling: SamplingSettings,
        done: Callable[[ScoredGroup], None],
        *,
        is_urgent: bool = False,
    ) -> None:
        self.asked.append(prompt.id)
        self.seeds.append(sampling.seed)
        self.waiting.append((prompt, done))

    def wait(self) -> None:
        prompt, done = self.waiting.pop()  # the last one first: finishing order must not count
        rollout = Rollout((1,), (0.0,), "", False, self.version)
        rewards = Reward(0.0, False), Reward(float(prompt.id not in self.dull), True)
        done(ScoredGroup(prompt, (rollout, rollout), rewards))

    def settle(self) -> None:
        while self.waiting:
            self.wait()


def rollouts(num_rows: int, answers: Answers, *overrides: str) -> RayRollouts:
    config = load_config(
        Path("configs/local/demo.yaml"), ["prompts.per_step=4", "method.kind=rl", *overrides]
    )
    prompts = [Prompt(str(i), "", (1,), "") for i in range(num_rows)]
    return RayRollouts(
        config, answers, Mixture.of(prompts), build_method(config).estimator, Stages()
    )


def ids(groups: Sequence[ScoredGroup]) -> list[str]:
    return [group.prompt.id for group in groups]


def test_without_dynamic_sampling_a_step_has_the_seeded_prompts_and_all_of_them() -> None:
    """Also where a batch crosses into the next epoch and may hold a prompt twice."""
    answers = Answers(dull={"0", "1", "2"})
    role, order = rollouts(6, answers), SeededOrder(6, 4, 0)
    for step in range(6):
        sampled = role.next_batch(step, VERSION)
        assert ids(sampled.groups) == [str(row) for row in order.batch(step)]
        assert sampled.dropped == []
    assert len(answers.asked) == 6 * 4
    assert sorted(set(answers.seeds)) == list(range(6))


def test_groups_that_say_nothing_are_replaced_by_prompts_the_step_has_not_had() -> None:
    seeded = {str(row) for row in SeededOrder(40, 4, 0).batch(0)}
    dull = set(sorted(seeded)[:2])
    answers = Answers(dull=dull)
    sampled = rollouts(40, answers, "method.rl.kind=dapo").next_batch(0, VERSION)
    assert len(sampled.groups) == 4
    assert set(ids(sampled.dropped)) == dull
    assert not dull & set(ids(sampled.groups))
    assert seeded - dull < set(ids(sampled.groups))
    assert len(answers.asked) == 4 + 2
    again = rollouts(40, Answers(dull=dull), "method.rl.kind=dapo").next_batch(0, VERSION)
    assert ids(again.groups) == ids(sampled.groups)


def test_when_nothing_says_anything_the_step_keeps_its_size() -> None:
    answers = Answers(dull={str(i) for i in range(40)})
    overrides = ("method.rl.kind=dapo", "method.rl.max_refills=2")
    sampled = rollouts(40, answers, *overrides).next_batch(0, VERSION)
    assert len(sampled.groups) == 4
    assert len(answers.asked) == len(set(answers.asked)) <= 4 + 2 * 4
    assert len(sampled.groups) + len(sampled.dropped) == len(answers.asked)


def test_with_a_lag_the_next_step_s_prompts_are_sampled_meanwhile() -> None:
    answers = Answers()
    role = rollouts(40, answers, "rollout.max_policy_lag=1")
    order = SeededOrder(40, 4, 0)
    for step in range(4):
        answers.version = PolicyVersion(step, step)
        sampled = role.next_batch(step, answers.version)
        assert ids(sampled.groups) == [str(row) for row in order.batch(step)]
        assert len(answers.asked) == (step + 2) * 4
        role.settle()  # as before weights are published
        assert answers.num_under_way == 0
    assert {r.version.theta for g in sampled.groups for r in g.rollouts} == {2}


def test_with_updates_in_flight_nothing_is_waited_for() -> None:
    answers = Answers()
    overrides = ("rollout.max_policy_lag=2", "rollout.in_flight_updates=true")
    role = rollouts(40, answers, *overrides)
    role.next_batch(0, VERSION)
    role.settle()
    assert answers.num_under_way > 0


def test_rollouts_that_are_too_old_are_refused() -> None:
    answers = Answers()
    role = rollouts(40, answers, "rollout.max_policy_lag=1")
    with pytest.raises(VersionError, match=r"theta0.*theta2.*max_policy_lag is 1"):
        role.next_batch(2, PolicyVersion(2, 2))


def test_a_resumed_run_samples_what_was_on_its_way() -> None:
    answers = Answers()
    role = rollouts(40, answers, "rollout.max_policy_lag=2")
    had = [ids(role.next_batch(step, PolicyVersion(step, step)).groups) for step in range(1)]
    state = json.loads(json.dumps(role.state()))
    again = rollouts(40, Answers(version=PolicyVersion(1, 1)), "rollout.max_policy_lag=2")
    again.restore(1, state)
    had += [ids(again.next_batch(1, PolicyVersion(1, 1)).groups)]
    assert len({name for names in had for name in names}) == 8
