"""Who is told of and who is condemned, given beats and a clock; nothing is started."""

from dataclasses import replace
from itertools import count

import pytest

from coop_rl.distributed.heartbeat import Beat, Child, Phases
from coop_rl.distributed.vigil import Look, Verdict, Vigil, is_busy

SILENT_S, HUNG_S, EVERY_S = 20.0, 45.0, 5.0
CORE = Child(7, "VLLM::EngineCore", "sleeping", 3.0)
FINE = Beat("node", 1, True, "step", 1.0, 2.0, 1, 9, "theta3.w3", (CORE,))
STOPPED = replace(FINE, children=(replace(CORE, state="stopped"),))


class Scene:
    """Actors that are asked every 5 s of a scripted clock, and what is decided."""

    def __init__(self, *names: str) -> None:
        self.vigil, self.now, self.names = Vigil(SILENT_S, HUNG_S), 0.0, names
        self.verdicts: list[tuple[float, Verdict]] = []
        self.owing: set[str] = set()

    def go_on(self, seconds: float, mute: tuple[str, ...] = (), **beats: Beat) -> None:
        """Let time pass; who is not `mute` answers at once, with FINE or what is given."""
        for _ in range(int(seconds / EVERY_S)):
            for name in self.names:
                if name not in self.owing:
                    self.vigil.asked(name, self.now)
                    self.owing.add(name)
                if name not in mute:
                    self.vigil.answered(name, beats.get(name.replace("-", "_"), FINE), self.now)
                    self.owing.discard(name)
            self.now += EVERY_S
            self.verdicts += [(self.now, verdict) for verdict in self.vigil.judge(self.now)]

    def told(self) -> list[tuple[float, str, str]]:
        return [(at, verdict.kind, verdict.actor) for at, verdict in self.verdicts]


def test_who_does_not_answer_is_told_of_then_condemned_and_its_waiting_peers_are_not() -> None:
    scene = Scene("learner-joint-0", "learner-joint-1", "meta-controller")
    scene.go_on(100)
    assert scene.told() == []
    waiting = replace(FINE, seconds=50.0)
    scene.go_on(HUNG_S, ("learner-joint-0",), learner_joint_1=waiting)
    assert scene.told() == [(120, "late", "learner-joint-0"), (145, "hung", "learner-joint-0")]
    late, hung = (verdict.text for _, verdict in scene.verdicts)
    assert late == "waiting 20 s for learner-joint-0 (step)"
    assert hung == "learner-joint-0 (step) has given no sign of life for 45 s"


def test_who_answers_late_is_told_of_again_only_when_silent_again() -> None:
    scene = Scene("a", "b")
    scene.go_on(5)
    for _ in range(2):
        scene.go_on(40, ("a",))
        scene.go_on(10)
    assert [kind for _, kind, _ in scene.told()] == ["late", "late"]


def test_where_nobody_answers_the_machine_is_at_fault() -> None:
    scene = Scene("a", "b", "c")
    scene.go_on(5)
    scene.go_on(600, ("a", "b", "c"))
    assert [kind for _, kind, _ in scene.told()] == ["late"] * 3
    scene.go_on(5)
    scene.go_on(100)
    assert len(scene.verdicts) == 3


@pytest.mark.parametrize("last", [None, replace(FINE, is_started=False, phase="start")])
def test_nobody_is_judged_before_its_start_is_over(last: Beat | None) -> None:
    scene = Scene("a", "b")
    if last:
        scene.go_on(5, a=last)
    scene.go_on(600, ("a",))
    assert scene.told() == []


def test_a_stopped_process_condemns_the_actor_that_still_answers() -> None:
    scene = Scene("rollout-0", "reward")
    scene.go_on(15, rollout_0=STOPPED)
    scene.go_on(5)  # somebody let it go on
    scene.go_on(15, rollout_0=STOPPED)
    assert scene.told() == []
    scene.go_on(5, rollout_0=STOPPED)
    assert [kind for _, kind, _ in scene.told()] == ["late", "hung"]
    hung = scene.verdicts[-1][1]
    assert hung.is_certain
    assert "its process VLLM::EngineCore (pid 7) is stopped, for 20 s" in hung.text


@pytest.mark.parametrize("state", ["disk-sleep", "zombie", "tracing-stop", "running"])
def test_no_other_state_of_a_process_condemns(state: str) -> None:
    scene = Scene("rollout-0", "reward")
    scene.go_on(600, rollout_0=replace(FINE, children=(replace(CORE, state=state),)))
    assert scene.told() == []


@pytest.mark.parametrize(
    ("usual_s", "seconds", "is_told"),
    [(2.0, 59, False), (2.0, 61, True), (30.0, 200, False), (30.0, 301, True), (None, 9e3, False)],
)
def test_a_phase_is_long_by_its_own_median_and_condemns_nobody(
    usual_s: float | None, seconds: float, is_told: bool
) -> None:
    scene = Scene("a", "b")
    # What passes after the last answer counts too.
    scene.go_on(300, a=replace(FINE, usual_s=usual_s, seconds=seconds - EVERY_S))
    assert [kind for _, kind, _ in scene.told()] == ["late"] * is_told
    if is_told:
        assert scene.verdicts[0][1].text.endswith(f"for a (step), usually {usual_s:.1f} s")


def test_a_silent_actor_that_computes_gets_as_much_time_again() -> None:
    scene = Scene("a", "b")
    scene.go_on(5)
    scene.go_on(HUNG_S, ("a",))
    scene.vigil.spare("a", scene.now)
    scene.go_on(HUNG_S - EVERY_S, ("a",))
    assert [kind for _, kind, _ in scene.told()] == ["late", "hung"]
    scene.go_on(EVERY_S, ("a",))
    assert [kind for _, kind, _ in scene.told()] == ["late", "hung", "hung"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Look("running", 10, 20), Look("running", 30, 45), True),
        (Look("running", 10, 20), Look("stopped", 30, 45), False),
        (Look("sleeping", 10, 20), Look("sleeping", 10.3, 45), False),  # Ray's own threads
        (Look("sleeping", 10, 20), Look("disk-sleep", 10, 45), True),
        (None, Look("running", 30, 45), False),
    ],
)
def test_busy_is_who_computes_or_waits_for_a_disk(
    first: Look | None, second: Look, expected: bool
) -> None:
    assert is_busy(first, second) == expected


def test_an_actor_that_was_replaced_is_known_anew() -> None:
    scene = Scene("a", "b")
    scene.go_on(5, a=STOPPED)
    scene.vigil.forget("a")
    scene.go_on(15, ("a",))
    assert set(scene.vigil.beats()) == {"b"}


def test_a_process_tells_the_call_it_has_been_in_for_longest() -> None:
    times = count(0, 10)
    phases = Phases(lambda: float(next(times)))  # every look at the clock is 10 s later
    for _ in range(3):
        with phases.inside("generate"):
            pass
    assert not phases.is_started
    with phases.inside("start"):
        pass
    assert phases.is_started
    with phases.inside("generate"), phases.inside("receive weights"):
        beat = phases.beat("node", ())
    assert (beat.phase, beat.seconds, beat.usual_s) == ("generate", 20.0, 10.0)
    assert (beat.num_open, beat.num_begun) == (2, 6)
    idle = phases.beat("node", ())
    assert (idle.phase, idle.seconds, idle.num_open) == ("", 10.0, 0)
