"""Nobody gets to ADMITTED but through a publish and the canary; losses are borne up to a budget."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop_rl.config.recovery import RecoverySection
from coop_rl.distributed.member import Member
from coop_rl.driver.membership import Budget, Membership, State
from coop_rl.driver.replacement import Replacements
from coop_rl.errors import ActorLostError, BudgetSpentError, RayLostError
from coop_rl.tracing.stages import Stages

NAMES = ("rollout-0", "rollout-1", "rollout-2")
EVENTS = ("lost", "retired", "left", "starting", "up", "joined", "published", "missed", "checked")


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(NAMES)), max_size=60))
def test_the_only_way_to_traffic_leads_through_a_publish_and_the_canary(
    events: list[tuple[str, str]],
) -> None:
    """Any events in any order: those that are not on the way are refused and change nothing."""
    members = Membership(NAMES[:2])
    history: dict[str, list[str]] = {name: [] for name in NAMES}
    calls: dict[str, Callable[[str], object]] = {
        "joined": lambda _: members.joined(),
        "published": lambda _: members.published(members.among(State.JOINED)),
        "missed": lambda name: members.published([n for n in NAMES if n != name]),
        "checked": lambda _: members.checked(),
    }
    for event, name in events:
        before = {n: members[n] for n in NAMES}
        try:
            calls.get(event, lambda n, e=event: getattr(members, e)(n))(name)
        except ValueError:
            assert {n: members[n] for n in NAMES} == before
            continue
        for other in NAMES:
            reached = event == "published" or (event == "missed" and other != name)
            if before[other] is not members[other]:
                history[other].append(members[other].name)
            elif reached and members[other] is State.JOINED:
                history[other].append("PUBLISHED")
            elif event == "missed" and members[other] is State.JOINED:
                history[other].append("MISSED")
    for name in NAMES:
        for i, entry in enumerate(history[name]):
            if entry == "ADMITTED":
                assert history[name][i - 1] == "PUBLISHED"
                way = [e for e in history[name][:i] if e not in ("PUBLISHED", "MISSED")]
                assert way[-3:] == ["STARTING", "STALE", "JOINED"]
        if members[name] is State.RETIRED:
            assert history[name][-1] == "RETIRED"


def test_a_publish_reaches_who_joined_and_admits_only_those_it_reached() -> None:
    members = Membership(["a", "b"])
    for name in ("a", "b"):
        members.lost(name)
        members.starting(name)
    members.up("a")
    assert members.joined() == ["a"]
    members.published(["a"])
    members.up("b")
    assert members.joined() == ["a", "b"]
    assert members.checked() == ["a"]
    assert members.checked() == []


def test_a_budget_bears_so_many_losses_in_a_window_and_then_tells_all_of_them() -> None:
    budget = Budget("recovery.rollout_restarts", 2, window=10)
    for step in (0, 3, 10):  # the first is forgotten by then
        budget.spend(step, f"rollout-0 died at {step}")
    with pytest.raises(BudgetSpentError) as caught:
        budget.spend(12, "rollout-1 died")
    assert str(caught.value) == (
        "3 losses within 10 steps, and recovery.rollout_restarts lets 2 be replaced: "
        "step 3: rollout-0 died at 3; step 10: rollout-0 died at 10; step 12: rollout-1 died"
    )


def test_where_ray_is_lost_nobody_asks_it_for_a_new_actor() -> None:
    nobody: Any = None
    told: list[str] = []
    budget = Budget("recovery.rollout_restarts", 9, window=10)
    said = (Stages(), told.append, lambda: None)
    replacements = Replacements(nobody, "rollouts", budget, RecoverySection(), *said)
    with pytest.raises(RayLostError):
        replacements.begin(Member("rollout-0", nobody), RayLostError("raylet died"))
    assert told == []


def test_each_further_replacement_waits_twice_as_long_up_to_a_minute() -> None:
    class SomeTeam:
        def replace(self, lost: Member[Any]) -> Member[Any]:
            return lost

    team: Any = SomeTeam()
    section = RecoverySection(backoff_s=2.0, window=10)
    budget = Budget("recovery.rollout_restarts", 9, section.window)
    said = (Stages(), lambda _: None, lambda: None)
    replacements = Replacements(team, "rollouts", budget, section, *said)
    lost: Member[Any] = Member("rollout-0", team)
    pauses = [replacements.begin(lost, ActorLostError("died"))[1] for _ in range(7)]
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    replacements.step = 10  # the others are forgotten
    assert replacements.begin(lost, ActorLostError("died"))[1] == 2.0
    assert RecoverySection(backoff_s=90.0).pause_s(1) == 90.0
    assert RecoverySection(backoff_s=0.0).pause_s(5) == 0.0
