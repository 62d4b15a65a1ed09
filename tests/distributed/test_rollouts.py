"""Which prompts a step samples: the seeded ones; with dynamic sampling, others in their place."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coop_rl.algorithm.methods import build_method
from coop_rl.config import load_config
from coop_rl.data.collection import Mixture
from coop_rl.data.order import SeededOrder
from coop_rl.distributed.rollouts import Generation, RayRollouts
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
    rounds: list[list[str]] = field(default_factory=list)

    def run(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> Sequence[ScoredGroup]:
        self.rounds.append([prompt.id for prompt in prompts])
        rollout = Rollout((1,), (0.0,), "", False, version)
        return [
            ScoredGroup(
                prompt,
                (rollout, rollout),
                (Reward(0.0, False), Reward(float(prompt.id not in self.dull), True)),
            )
            for prompt in prompts
        ]


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
    assert len(answers.rounds) == 6


def test_groups_that_say_nothing_are_replaced_by_prompts_the_step_has_not_had() -> None:
    seeded = {str(row) for row in SeededOrder(40, 4, 0).batch(0)}
    dull = set(sorted(seeded)[:2])
    answers = Answers(dull=dull)
    sampled = rollouts(40, answers, "method.rl.kind=dapo").next_batch(0, VERSION)
    assert len(sampled.groups) == 4
    assert set(ids(sampled.dropped)) == dull
    assert not dull & set(ids(sampled.groups))
    assert seeded - dull < set(ids(sampled.groups))
    assert [len(names) for names in answers.rounds][:2] == [4, 2]
    again = rollouts(40, Answers(dull=dull), "method.rl.kind=dapo").next_batch(0, VERSION)
    assert ids(again.groups) == ids(sampled.groups)


def test_when_nothing_says_anything_the_step_keeps_its_size() -> None:
    answers = Answers(dull={str(i) for i in range(40)})
    overrides = ("method.rl.kind=dapo", "method.rl.max_refills=2")
    sampled = rollouts(40, answers, *overrides).next_batch(0, VERSION)
    assert len(sampled.groups) == 4
    assert len(answers.rounds) == 3
    assert len(sampled.groups) + len(sampled.dropped) == sum(len(r) for r in answers.rounds)
