"""A look at every node of a cluster, for `coop-rl doctor`."""

import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coop_rl.config import RunConfig
from coop_rl.config.sizes import Devices
from coop_rl.diagnosis.finding import Finding, judge
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.cluster import ray_session
from coop_rl.errors import RunDirectoryError, RunError, first_line
from coop_rl.observability.run_directory import package_versions

LIMIT_S = 120.0
KNOCK_S = 5.0
MOST_APART_S = 1.0
"""Between two clocks: logs and metrics of the roles would tell another order."""


def node_findings(config: RunConfig) -> Iterator[Finding]:
    """Yield versions, shared folder, ports and clock of every node of the cluster we join.

    Raises:
        UserError: Nobody answers there, or the run directory cannot be written.
        RunError: A node was lost, did not answer in time, or cannot do the look.
    """
    folder, secret = Path(config.run.dir).absolute(), uuid.uuid4().hex
    probe = folder / f".doctor-{secret[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(secret)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {folder}: {error.strerror}; give another run.dir"
        ) from None
    try:
        with ray_session(config.placement, Devices(cpus={}, gpus={}), "doctor"):
            nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            began = time.time()
            host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            # A port the kernel chose, as those of a run's stores and groups are.
            with socket.create_server((host, 0), backlog=len(nodes)) as listener:
                here = (host, listener.getsockname()[1])
                answers = gather([_ask(node, probe, here) for node in nodes], LIMIT_S)
            waited_s = time.time() - began
        for node, answer in zip(nodes, answers, strict=True):
            yield from _judge(node, answer, secret, folder, began, waited_s)
    except RayError as error:
        raise RunError(
            f"a node was lost meanwhile: {first_line(error)}; run doctor again"
        ) from None
    finally:
        probe.unlink()


def _ask(node: dict[str, Any], probe: Path, here: tuple[str, int]) -> Call:
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


def _judge(
    node: dict[str, Any],
    answer: dict[str, Any],
    secret: str,
    folder: Path,
    began: float,
    waited_s: float,
) -> Iterator[Finding]:
    name = f"node {node['NodeManagerAddress']} {node['NodeID'][:6]}"
    ours = package_versions()
    other = [f"{k} {v} (here {ours.get(k)})" for k, v in answer["versions"].items() if v != ours[k]]
    yield judge(
        f"{name}: versions",
        not other,
        "; ".join(other) or "as here",
        "install the same versions, or the same image, on all nodes",
    )
    yield judge(
        f"{name}: shared folder",
        answer["probe"] == secret,
        str(folder),
        "mount the storage of run.dir on all nodes at the same path",
    )
    yield judge(
        f"{name}: ports",
        not answer["refusal"],
        answer["refusal"] or "any of the driver's node can be reached",
        "open all TCP ports between nodes: learners and engines meet at ones the kernel chooses",
    )
    # It answered some time between asking and the last answer.
    apart_s = max(began - answer["time"], answer["time"] - began - waited_s, 0.0)
    yield judge(
        f"{name}: clock",
        apart_s <= MOST_APART_S,
        f"{apart_s:.1f} s apart at least",
        "run a time service (chrony) on all nodes",
        "warn",
    )
