"""Roles on the nodes that the config says, on Ray's fake multi-node cluster of one machine."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.util.placement_group import placement_group_table

from coop_rl.config import RunConfig, load_config
from coop_rl.config.roles import RoleResources
from coop_rl.distributed import autoscaler, placement
from coop_rl.distributed.placement import Placement, reserved
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import Interrupted, ResourceError
from tests.support.nodes import cluster_of

DEMO = Path("configs/local/demo.yaml")
ON_ROLLOUT = "placement.rollout={cpus: 1, strategy: strict_spread, labels: {role: rollout}}"
ON_LEARNER = "placement.learner={cpus: 0.5, strategy: strict_pack, labels: {role: learner}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes for rollouts and one for learners, besides an empty head."""
    with cluster_of(("rollout", "rollout", "learner")) as started:
        ray.init(address=started.address, log_to_driver=False)
        yield started
        ray.shutdown()


def configure(*overrides: str) -> RunConfig:
    return load_config(DEMO, ["method.kind=rl", *overrides])


def nodes_of(role: str) -> set[str]:
    nodes = ray.nodes()
    return {node["NodeID"] for node in nodes if node["Labels"].get("role") == role}


def actor_class() -> Any:
    class Where:  # inside a function, so that Ray sends it along
        def node(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    return ray.remote(Where)


def ignore(_line: str) -> None:
    """Earlier tests' nodes may take a moment to be free."""


def test_each_role_lies_where_the_config_says(cluster: Cluster) -> None:
    config = configure("rollout.num_actors=2", "learner.num_ranks=2", ON_ROLLOUT, ON_LEARNER)
    with reserved(config, ignore) as place:
        found, remote = {}, actor_class()
        for role, cpus in (("rollout", 1.0), ("learner joint", 0.5)):
            actors = [
                remote.options(num_cpus=cpus, **place.options(role, i)).remote() for i in range(2)
            ]
            calls = [actor.node.remote() for actor in actors]
            found[role] = ray.get(calls, timeout=60)
        assert set(found["rollout"]) == nodes_of("rollout")
        assert set(found["learner joint"]) == nodes_of("learner")
        meta = remote.options(num_cpus=0, **place.options("meta-controller", 0)).remote()
        assert {ray.get(meta.node.remote(), timeout=60)} == nodes_of("learner")
        assert ray.available_resources().get("CPU", 0.0) == 0.0


def test_what_no_node_can_hold_is_refused_at_once(cluster: Cluster) -> None:
    for override, said in (
        (
            "placement.rollout={cpus: 2}",
            r"1 x \(2 CPU\), pack for rollout: the most one has is 1 CPU",
        ),
        (
            "placement.rollout={cpus: 1, gpus: 1}",
            r"\(1 CPU \+ 1 GPU\).*the most one has is 1 CPU, 0 GPU",
        ),
        ("placement.rollout={cpus: 1, labels: {role: meta}}", r"on nodes with role=meta"),
    ):
        with (
            pytest.raises(ResourceError, match=said),
            reserved(configure(override), ignore),
        ):
            pass


def test_what_does_not_fit_node_by_node_is_refused_at_once(cluster: Cluster) -> None:
    """All of it is less than the cluster's 3 CPUs together."""
    for overrides, said in (
        (
            ("placement.rollout={cpus: 1, strategy: strict_pack}", "rollout.num_actors=2"),
            r"room for 1 of 2 x \(1 CPU\), strict_pack for rollout",
        ),
        (
            (ON_ROLLOUT, "rollout.num_actors=3", "placement.learner.cpus=0"),
            r"room for 2 of 3 x \(1 CPU\), strict_spread, on nodes with role=rollout for rollout",
        ),
        (
            ("placement.learner={cpus: 1, labels: {role: learner}}", "learner.num_ranks=2"),
            r"room for 1 of 2 x \(1 CPU\), pack, on nodes with role=learner for learner joint",
        ),
        (
            ("placement.rollout.cpus=0.6", "placement.learner.cpus=0", "rollout.num_actors=4"),
            r"room for 3 of 4 x \(0\.6 CPU\), pack for rollout",
        ),
    ):
        with (
            pytest.raises(ResourceError, match=f"this cluster has {said}"),
            reserved(configure(*overrides), ignore),
        ):
            pass


def test_a_share_of_a_gpu_lies_on_one_device() -> None:
    nodes = [{"Resources": {"CPU": 8.0, "GPU": 2.0}}, {"Resources": {"CPU": 1.0, "GPU": 2.0}}]
    for gpus, held in ((0.6, 4), (0.5, 8), (0.3, 12), (1, 4), (2, 2), (3, 0)):
        assert placement._room(RoleResources(gpus=gpus), nodes) == held
    assert placement._room(RoleResources(cpus=1, gpus=0.5), nodes) == 5


def test_a_growing_cluster_that_lost_the_room_is_told_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.add_node(num_cpus=1, labels={"role": "spare"})
    spare = configure(
        "placement.rollout={cpus: 1, labels: {role: spare}}",
        "placement.learner.cpus=0",
        "placement.startup_timeout_s=60",
    )
    # What an autoscaler says that is at its maximum: it cannot make room for anything more.
    monkeypatch.setattr(autoscaler, "may_grow", lambda: True)
    monkeypatch.setattr(autoscaler, "impossible_groups", lambda: set(placement_group_table()))
    monkeypatch.setattr(placement, "IMPOSSIBLE_FOR_S", 1.0)
    monkeypatch.setattr(placement, "REPORT_EVERY_S", 2.0)
    lines: list[str] = []

    def lose(line: str) -> None:
        lines.append(line)  # until now it waited, for others to leave
        if len(lines) == 1:
            cluster.remove_node(node)

    with (
        reserved(spare, ignore),
        pytest.raises(ResourceError, match=r"role=spare.*its autoscaler may not add enough"),
        reserved(spare, lose),
    ):
        pass
    assert lines


def test_more_than_the_cluster_has_is_refused_with_the_arithmetic(cluster: Cluster) -> None:
    config = configure("rollout.num_actors=3", "learner.num_ranks=2")
    with (
        pytest.raises(ResourceError, match=r"4 CPUs .*rollout 3 \+ learner joint 1.*has 3"),
        reserved(config, ignore),
    ):
        pass


def test_a_wait_says_what_is_missing_and_ends(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "REPORT_EVERY_S", 1.0)
    lines: list[str] = []
    one = (ON_ROLLOUT, "rollout.num_actors=1")
    with (
        reserved(configure(ON_ROLLOUT, "rollout.num_actors=2"), ignore),
        pytest.raises(ResourceError, match=r"no room within placement\.startup_timeout_s 4 s"),
        reserved(configure(*one, "placement.startup_timeout_s=4"), lines.append),
    ):
        pass
    assert lines
    assert "rollout needs 1 x (1 CPU), strict_spread, on nodes with role=rollout" in lines[-1]
    with reserved(configure(*one), ignore):  # both gave back what they held
        pass


def test_nodes_that_are_still_coming_up_are_waited_for(cluster: Cluster) -> None:
    said = r"4 of placement\.min_nodes 5 nodes came within placement\.startup_timeout_s 2 s"
    limits = ("placement.min_nodes=5", "placement.startup_timeout_s=2")
    with pytest.raises(ResourceError, match=said), reserved(configure(*limits), ignore):
        pass
    with reserved(configure("placement.min_nodes=4"), ignore):
        pass


def test_a_request_to_stop_ends_the_wait_for_nodes(cluster: Cluster) -> None:
    stop, asked = StopRequest(), Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    late = configure("placement.min_nodes=5", "placement.startup_timeout_s=20")
    with stop.listening():
        asked.start()
        with pytest.raises(Interrupted, match="nothing was trained"), reserved(late, ignore):
            pass
    assert stop.is_set


def test_roles_that_may_lie_anywhere_leave_labelled_nodes_to_those_that_need_them(
    cluster: Cluster,
) -> None:
    config = configure(
        "placement.rollout={cpus: 1}",
        "placement.learner={cpus: 1, strategy: strict_spread, labels: {role: rollout}}",
        "learner.num_ranks=2",
    )
    for _ in range(3):  # by chance alone: one time in 27
        with reserved(config, ignore):
            pass


def test_rollouts_that_come_and_go_have_places_of_their_own(cluster: Cluster) -> None:
    """The least of them first; then what has room, on nodes that stay, as they come."""
    config = configure(
        "placement.address=auto",
        "rollout.num_actors={min: 1, max: 4}",
        "placement.rollout={cpus: 1, labels: {role: rollout}}",
        ON_LEARNER,
    )
    remote = actor_class()

    def node_of(place: Placement, index: int) -> str:
        actor = remote.options(num_cpus=1, **place.options("rollout", index)).remote()
        return str(ray.get(actor.node.remote(), timeout=60))

    def wait(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    before = nodes_of("rollout")
    with reserved(config, ignore) as place:
        room = place.room
        assert room is not None
        first = node_of(place, 0)
        wait(lambda: room.found() == [1])
        room.take(1)
        assert {first, node_of(place, 1)} == before
        assert room.found() == room.found() == []
        late = cluster.add_node(num_cpus=1, labels={"role": "rollout"})
        wait(lambda: room.found() in ([2], [3]))
        (index,) = room.found()
        store: Any = ray._private.worker.global_worker
        reasons: Any = autoscaler_pb2
        reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        store.gcs_client.drain_node(late._node_id, reason, "a test", 0)
        wait(lambda: room.ending() == {late._node_id})
        assert room.found() == []
        room.give_back(1)
        wait(lambda: 1 in room.found() or 5 - index in room.found())
        cluster.remove_node(late)
