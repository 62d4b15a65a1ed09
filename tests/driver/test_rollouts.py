"""Which prompts a step samples: the seeded ones; with dynamic sampling, others in their place."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from coop_rl.algorithm.methods import build_method
from coop_rl.config import load_config
from coop_rl.data.collection import Mixture
from coop_rl.data.order import SeededOrder
from coop_rl.driver.generation import OnDone, OnReturn, OnStart
from coop_rl.driver.kept_groups import GROUPS, KeptGroup, read_groups, write_groups
from coop_rl.driver.rollouts import TeamRollouts
from coop_rl.driver.window import Slot
from coop_rl.errors import VersionError
from coop_rl.tracing.stages import Stages
from coop_rl.types import (
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    SamplingSettings,
    ScoredGroup,
)

VERSION = PolicyVersion(0, 0)
TWO = "rollout.samples_per_prompt=2"
"""As many as `Answers` gives."""


@dataclass
class Answers:
    """Groups whose rewards are all equal for the prompts named, mixed for the others.

    Those under way end in an order drawn from `seed`, when somebody waits.
    """

    dull: set[str] = field(default_factory=set)
    seed: int = 0
    asked: list[str] = field(default_factory=list)
    serves: PolicyVersion = VERSION
    stamps: PolicyVersion | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._submitted: list[tuple[Prompt, PolicyVersion, OnDone]] = []

    def settle(self) -> None:
        """Nothing is put off."""

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingSettings,
        on_start: OnStart,
        on_done: OnDone,
        on_return: OnReturn,
    ) -> None:
        self.asked.append(prompt.id)
        on_start(self.serves)
        self._submitted.append((prompt, self.stamps or self.serves, on_done))

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self.end_one()

    def end_one(self) -> None:
        index = self._random.randrange(len(self._submitted))
        prompt, version, on_done = self._submitted.pop(index)
        rollout = Rollout((1,), (0.0,), "", False, version)
        rewards = (Reward(0.0, False), Reward(float(prompt.id not in self.dull), True))
        on_done(ScoredGroup(prompt, (rollout, rollout), rewards), "rollout-7")


def rollouts(num_rows: int, answers: Answers, *overrides: str) -> TeamRollouts:
    config = load_config(
        Path("configs/local/demo.yaml"), ["prompts.per_step=4", "method.kind=rl", *overrides]
    )
    prompts = [Prompt(str(i), "", (1,), "") for i in range(num_rows)]
    return TeamRollouts(
        config, answers, Mixture.of(prompts), build_method(config).estimator, Stages(), decode=str
    )


def ids(groups: Sequence[ScoredGroup]) -> list[str]:
    return [group.prompt.id for group in groups]


def test_without_dynamic_sampling_a_step_has_the_seeded_prompts_and_all_of_them() -> None:
    """Also where a batch crosses into the next epoch and may hold a prompt twice."""
    answers = Answers(dull={"0", "1", "2"})
    role, order = rollouts(6, answers), SeededOrder(6, 4, 0)
    for step in range(6):
        answers.serves = PolicyVersion(step, step)
        sampled = role.next_batch(step, answers.serves)
        assert ids(sampled.groups) == [str(row) for row in order.batch(step)]
        assert sampled.dropped == []
    assert len(answers.asked) == 6 * 4
    assert role.state() == {}


@pytest.mark.parametrize("seed", range(8))
def test_groups_that_say_nothing_are_replaced_one_by_one_and_the_order_of_ends_is_no_matter(
    seed: int,
) -> None:
    seeded = {str(row) for row in SeededOrder(40, 4, 0).batch(0)}
    dull = {*sorted(seeded)[:2], *(str(i) for i in range(0, 40, 3))}
    answers = Answers(dull=dull, seed=seed)
    sampled = rollouts(40, answers, "method.rl.kind=dapo").next_batch(0, VERSION)
    assert len(sampled.groups) == 4
    assert not dull & set(ids(sampled.groups))
    assert set(ids(sampled.dropped)) <= dull
    assert seeded - dull < set(ids(sampled.groups))
    # Nothing is sampled in vain but what says nothing.
    assert len(answers.asked) == 4 + len(sampled.dropped) == len(set(answers.asked))
    other = rollouts(40, Answers(dull=dull, seed=100), "method.rl.kind=dapo").next_batch(0, VERSION)
    assert ids(other.groups) == ids(sampled.groups)
    assert ids(other.dropped) == ids(sampled.dropped)


def test_when_nothing_says_anything_the_step_keeps_its_size() -> None:
    answers = Answers(dull={str(i) for i in range(40)})
    overrides = ("method.rl.kind=dapo", "method.rl.max_refills=2")
    sampled = rollouts(40, answers, *overrides).next_batch(0, VERSION)
    assert ids(sampled.groups) == [str(row) for row in SeededOrder(40, 4, 0).batch(0)]
    assert 4 < len(answers.asked) <= 4 + 2 * 4
    assert len(sampled.groups) + len(sampled.dropped) == len(answers.asked)


def test_with_a_lag_prompts_are_under_way_while_learners_train_and_none_is_lost() -> None:
    answers = Answers(seed=3)
    role, order = rollouts(400, answers, "rollout.max_policy_lag=2"), SeededOrder(400, 4, 0)
    trained: list[str] = []
    for step in range(50):
        answers.serves = PolicyVersion(step, step)
        sampled = role.next_batch(step, answers.serves)
        lags = {step - r.version.theta for group in sampled.groups for r in group.rollouts}
        assert lags <= {0, 1, 2}
        trained += ids(sampled.groups)
        under_way = len(answers.asked) - len(trained)
        assert under_way == 4 * min(2, 49 - step)
    assert sorted(trained) == sorted(str(r) for s in range(50) for r in order.batch(s))


def test_a_resumed_run_loses_and_repeats_no_prompt() -> None:
    overrides = ("rollout.max_policy_lag=1", "run.num_steps=9")
    answers, trained = Answers(seed=5), []
    role = rollouts(400, answers, *overrides)
    for step in range(9):
        if step == 4:  # the run ended here, and what was under way is gone
            state = role.state()
            assert len(state.pop(GROUPS)) + len(state["slots"]) == 4
            state = json.loads(json.dumps(state))
            answers = Answers(seed=6)
            role = rollouts(400, answers, *overrides)
            role.begin(state)
        answers.serves = PolicyVersion(step, step)
        trained += ids(role.next_batch(step, answers.serves).groups)
    order = SeededOrder(400, 4, 0)
    assert sorted(trained) == sorted(str(r) for s in range(9) for r in order.batch(s))


def drained(role: TeamRollouts, answers: Answers, step: int) -> list[tuple[str, int]]:
    """Take a step's batch, and let all that is under way end; return prompts and versions."""
    answers.serves = PolicyVersion(step, step)
    groups = role.next_batch(step, answers.serves).groups
    while answers._submitted:
        answers.end_one()
    return [(group.prompt.id, group.rollouts[0].version.theta) for group in groups]


@pytest.mark.parametrize("overrides", [(), ("method.rl.kind=dapo",)], ids=["plain", "dynamic"])
def test_a_resumed_run_trains_the_very_groups_that_had_ended(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    """They were sampled with weights that the resumed run never has."""
    overrides = ("rollout.max_policy_lag=2", "run.num_steps=9", TWO, *overrides)
    dull = {str(i) for i in range(0, 400, 3)}
    answers = Answers(dull, seed=5)
    role, undisturbed = rollouts(400, answers, *overrides), []
    for step in range(9):
        undisturbed.append(drained(role, answers, step))
    again, resumed = Answers(dull, seed=5), []
    role = rollouts(400, again, *overrides)
    for step in range(9):
        if step == 4:
            state = role.state()
            write_groups(tmp_path, state.pop(GROUPS))
            state = json.loads(json.dumps(state))
            kept, chance = read_groups(tmp_path), again._random
            again = Answers(dull)
            again._random = chance
            role = rollouts(400, again, *overrides)
            role.begin({**state, GROUPS: kept})
        resumed.append(drained(role, again, step))
    assert len(kept) >= 8
    assert resumed == undisturbed


def test_groups_come_back_as_they_were(tmp_path: Path) -> None:
    prompt = Prompt("7", "", (5, 6), "", given_ids=(9,), given_text="nine")
    old, new = PolicyVersion(2, 1), PolicyVersion(3, 2)
    samples = (
        Rollout((1, 2, 3), (-0.1, float("-inf"), -1e-300), "a\u2028\ud800", True, old),
        Rollout((4,), (-0.25,), "", False, old, ((old, 1), (new, 2))),
    )
    rewards = (
        Reward(0.5, True, answer="1/2", parts=(("correct", 1.0), ("length", -0.5))),
        Reward(float("inf"), False, "crashed", has_format=False, is_flipped=True),
    )
    kept = KeptGroup(Slot(3, True, 17), ScoredGroup(prompt, samples, rewards), new, "rollout-3")
    write_groups(tmp_path, [kept, kept])
    assert read_groups(tmp_path) == [kept, kept]
    assert read_groups(tmp_path / "none") == []


def test_groups_of_other_prompts_are_sampled_anew(tmp_path: Path) -> None:
    overrides = ("rollout.max_policy_lag=1", "run.num_steps=9", TWO)
    answers = Answers(seed=5)
    role = rollouts(400, answers, *overrides)
    drained(role, answers, 0)
    state = role.state()
    assert len(state[GROUPS]) == 4
    changed = [
        replace(one, group=replace(one.group, prompt=replace(one.group.prompt, token_ids=(2,))))
        for one in state[GROUPS]
    ]
    for groups in (changed, changed[1:], []):
        answers = Answers(seed=5)
        role = rollouts(400, answers, *overrides)
        role.begin({**state, GROUPS: groups})
        assert {version for _, version in drained(role, answers, 1)} == {1}
    answers = Answers()
    role = rollouts(400, answers, *overrides)
    role.begin(state)
    assert {version for _, version in drained(role, answers, 1)} == {0}


def test_a_group_sampled_with_other_weights_ends_the_run() -> None:
    answers = Answers(serves=PolicyVersion(3, 3), stamps=PolicyVersion(2, 2))
    with pytest.raises(VersionError, match="rollout-7"):
        rollouts(40, answers).next_batch(3, PolicyVersion(3, 3))
    # A partial response may be as old as the lag, and no older.
    overrides = ("rollout.max_policy_lag=1", "rollout.in_flight_updates=true")
    answers = Answers(serves=PolicyVersion(3, 3), stamps=PolicyVersion(2, 2))
    assert len(rollouts(40, answers, *overrides).next_batch(3, PolicyVersion(3, 3)).groups) == 4
    answers = Answers(serves=PolicyVersion(3, 3), stamps=PolicyVersion(1, 1))
    with pytest.raises(VersionError, match="max_policy_lag"):
        rollouts(40, answers, *overrides).next_batch(3, PolicyVersion(3, 3))


def test_prompts_are_asked_with_what_is_given_to_them_and_others_as_they_are() -> None:
    role = rollouts(4, Answers())
    sampled = role.next_batch(0, VERSION, {"1": (7, 8), "2": (), "99": (5,)})
    found = {g.prompt.id: (g.prompt.given_ids, g.prompt.given_text) for g in sampled.groups}
    assert found == {"0": ((), ""), "1": ((7, 8), "(7, 8)"), "2": ((), ""), "3": ((), "")}
    assert not any(group.prompt.given_ids for group in role.next_batch(1, VERSION).groups)
