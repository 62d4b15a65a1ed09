"""Rollout actors that come and go while a run goes on (real Ray, scripted engines and places)."""

from dataclasses import dataclass, field

import pytest
import ray

from coop_rl.metric_names import NUM_ROLLOUTS
from tests.driver.test_losses import FIRST, NEVER, NEXT, Scene, text_of

pytestmark = pytest.mark.usefixtures("local_ray")
NO_LOSSES = ("recovery.rollout_restarts=0",)
"""So that whoever counts as lost ends the test."""


@dataclass
class ScriptedPlaces:
    """Places with room as a test says."""

    free: set[int] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    """Whose end was announced."""
    log: list[str] = field(default_factory=list)

    def found(self) -> list[int]:
        return sorted(self.free)

    def take(self, index: int) -> None:
        self.free.remove(index)

    def give_back(self, index: int) -> None:
        self.log.append(f"{index} is free")

    def ending(self) -> set[str]:
        return self.nodes


def announce_end(scene: Scene, places: ScriptedPlaces, name: str) -> None:
    places.nodes.add(scene.team.places[name].node_id)
    scene.fleet.look()


def names(scene: Scene) -> list[str]:
    return [member.name for member in scene.fleet.serving.values()]


@pytest.mark.parametrize("num_engines", [1, 3])
def test_results_do_not_depend_on_how_many_sample_nor_on_who_joins_in_between(
    num_engines: int,
) -> None:
    """At lag 0: seeds follow from seed, step, prompt and index alone."""
    alone, places = Scene(1), ScriptedPlaces()
    scene = Scene(num_engines, NO_LOSSES, places)
    for version, step in ((FIRST, range(8)), (NEXT, range(8, 16))):
        for one in (alone, scene):
            with one.generation.serving():
                one.publish(version)
                for i in step:
                    one.submit(str(i))
                if one is scene and num_engines == 1 and version is FIRST:
                    places.free = {1}
                one.wait_for(step.stop)
                if one is scene and num_engines == 1 and version is FIRST:
                    one.wait_until_up()
                    assert names(one) == ["rollout-0"]
    assert {n: text_of(g) for n, g in scene.served.items()} == {
        n: text_of(g) for n, g in alone.served.items()
    }
    assert {g.rollouts[0].version for g in scene.served.values()} == {FIRST, NEXT}
    assert scene.returned == []
    if num_engines == 1:
        new = scene.team.rollouts[1]
        calls: list[str] = ray.get(new.handle.calls.remote())
        assert calls[:2] == ["start", f"receive {NEXT}"]
        assert len(calls) > 2
        told = "rollout-1 has joined: 2 of at most 3 rollout actors sample"
        assert scene.log == ["noted", f"canary of rollout-1 after start, receive {NEXT}", told]
        assert scene.stages.take()[NUM_ROLLOUTS] == 2


def test_who_lies_on_a_node_that_ends_gets_no_more_ends_what_it_has_and_goes() -> None:
    places = ScriptedPlaces()
    scene = Scene(2, NO_LOSSES, places)
    with scene.generation.serving():
        scene.publish(FIRST)
        for i in range(8):
            scene.submit(str(i))
        announce_end(scene, places, "rollout-0")
        assert names(scene) == ["rollout-0", "rollout-1"]  # it has something left
        held: list[str] = ray.get(scene.team.rollouts[0].handle.calls.remote())
        scene.wait_for(8)
        scene.generation.wait_until(lambda: names(scene) == ["rollout-1"])
        assert len([call for call in held if call.startswith("generate")]) < 8
        scene.publish(NEXT)
        scene.submit("later")
        scene.wait_for(9)
    assert scene.returned == []
    assert scene.log == [
        "noted",
        "rollout-0 has left, the end of its node was announced: 1 of at most 3 rollout actors "
        "sample",
    ]
    assert places.log == ["0 is free"]
    assert list(scene.team.places) == ["rollout-1"]
    assert [member.name for member in scene.team.rollouts] == ["rollout-1"]
    assert scene.served["later"].rollouts[0].version == NEXT


def test_who_dies_with_an_announced_node_is_no_loss_and_what_it_had_goes_to_others() -> None:
    places = ScriptedPlaces()
    scene = Scene(2, NO_LOSSES, places)
    with scene.generation.serving():
        scene.publish(FIRST)
        scene.submit("a", NEVER)
        announce_end(scene, places, "rollout-0")
        scene.kill(0)
        scene.generation.wait_until(lambda: scene.returned == ["a"])
        scene.generation.wait_until(lambda: names(scene) == ["rollout-1"])
    assert scene.returned == ["a"]
    assert len(scene.log) == 2
    assert scene.fleet.is_ending(0)
    assert not scene.fleet.is_ending(1)


def test_the_last_one_samples_to_its_nodes_end_and_the_wait_goes_on_with_the_next() -> None:
    places = ScriptedPlaces()
    scene = Scene(1, NO_LOSSES, places)
    with scene.generation.serving():
        scene.publish(FIRST)
        announce_end(scene, places, "rollout-0")
        scene.submit("a")
        scene.wait_for(1)
        assert names(scene) == ["rollout-0"]
        scene.submit("b", NEVER)
        scene.kill(0)
        scene.generation.wait_until(lambda: not names(scene))
        places.free = {0}
        scene.submit("c")
        scene.generation.wait_until(lambda: "c" in scene.served)
    assert scene.returned == ["b"]
    assert scene.log[-1] == "rollout-0 has joined: 1 of at most 3 rollout actors sample"


def test_who_is_still_starting_on_a_node_that_ends_goes_at_once() -> None:
    places = ScriptedPlaces({1})
    scene = Scene(1, NO_LOSSES, places)
    with scene.generation.serving():
        scene.publish(FIRST)
        scene.wait_until_up()
        announce_end(scene, places, "rollout-1")
        assert scene.fleet.calls() == []
        scene.publish(NEXT)
    assert names(scene) == ["rollout-0"]
    assert places.log == ["1 is free"]
