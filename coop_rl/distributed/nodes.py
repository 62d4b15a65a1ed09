"""A look at every node of a cluster, for `coop-rl doctor`; called by `diagnosis.nodes`.

a task on each node --> versions, clock, the probe file, a knock at a port of ours --> NodeAnswer
"""

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coop_rl.config.roles import PlacementSection
from coop_rl.config.sizes import Devices
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.cluster import ray_session
from coop_rl.errors import RunError, first_line
from coop_rl.observability.run_directory import package_versions

LIMIT_S = 120.0
"""How long all nodes together may take to answer."""
KNOCK_S = 5.0
"""How long a node may take to reach a port of this one."""


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a task on one node found."""

    address: str
    """The node's IP address."""
    node_id: str
    """The node's id, as `ray list nodes` shows it."""
    versions: dict[str, str]
    """Versions there of the packages that a result depends on."""
    probe: str
    """Content of the probe file there; empty where there is none."""
    refusal: str
    """Why a port of the driver's node cannot be reached from there; empty where it can."""
    apart_s: float
    """Least difference of the node's clock from ours that explains when it answered."""


def ask_nodes(placement: PlacementSection, probe: Path) -> list[NodeAnswer]:
    """Look for `probe`, and knock at a port of this node, from every node of the cluster.

    Raises:
        UserError: Nobody answers at `placement.address`.
        RunError: A node was lost, did not answer in time, or cannot do the look.
    """
    try:
        with ray_session(placement, Devices(cpus={}, gpus={}), "doctor"):
            nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            began = time.time()
            host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            # A port the kernel chose, as those of a run's stores and groups are.
            with socket.create_server((host, 0), backlog=len(nodes)) as listener:
                here = (host, listener.getsockname()[1])
                answers = gather([_ask(node, probe, here) for node in nodes], LIMIT_S)
            waited_s = time.time() - began
    except RayError as error:
        raise RunError(
            f"a node was lost meanwhile: {first_line(error)}; run doctor again"
        ) from None
    return [
        NodeAnswer(
            address=node["NodeManagerAddress"],
            node_id=node["NodeID"],
            versions=answer["versions"],
            probe=answer["probe"],
            refusal=answer["refusal"],
            apart_s=clocks_apart(answer["time"], began, waited_s),
        )
        for node, answer in zip(nodes, answers, strict=True)
    ]


def clocks_apart(theirs: float, began: float, waited_s: float) -> float:
    """Return how far apart two clocks are at least, in seconds.

    The other one answered with the time `theirs` between `began` and `waited_s` later.
    """
    return max(began - theirs, theirs - began - waited_s, 0.0)


def _ask(node: dict[str, Any], probe: Path, here: tuple[str, int]) -> Call[dict[str, Any]]:
    """Start a task on one node, which looks for `probe` and knocks at `here`."""

    def look(path: str) -> dict[str, Any]:
        file, now = Path(path), time.time()
        content = file.read_text() if file.exists() else ""
        try:
            socket.create_connection(here, KNOCK_S).close()
            refusal = ""
        except OSError as error:
            refusal = str(error)
        return {
            "time": now,
            "versions": package_versions(),
            "probe": content,
            "refusal": refusal,
        }

    where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task: Any = ray.remote(look)
    started = task.options(num_cpus=0, scheduling_strategy=where).remote(str(probe))
    return Call(node["NodeManagerAddress"], "doctor", started)
