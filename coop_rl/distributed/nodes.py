"""A look at every node of a cluster, for `coop-rl doctor`."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coop_rl.config import RunConfig
from coop_rl.config.sizes import Devices
from coop_rl.diagnosis.finding import Finding, judge
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.cluster import ray_session
from coop_rl.errors import RunDirectoryError
from coop_rl.observability.run_directory import package_versions

LIMIT_S = 120.0
MOST_APART_S = 1.0
"""Between two clocks: logs and metrics of the roles would tell another order."""


def node_findings(config: RunConfig) -> Iterator[Finding]:
    """Yield versions, shared folder and clock of every node of the cluster at placement.address.

    Raises:
        UserError: Nobody answers there, or the run directory cannot be written.
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
            answers = gather([_ask(node, probe) for node in nodes], LIMIT_S)
            waited_s = time.time() - began
        for node, answer in zip(nodes, answers, strict=True):
            yield from _judge(node, answer, secret, folder, began, waited_s)
    finally:
        probe.unlink()


def _ask(node: dict[str, Any], probe: Path) -> Call:
    """Start a task on one node."""

    def look(path: str) -> dict[str, Any]:
        file = Path(path)
        content = file.read_text() if file.exists() else ""
        return {"time": time.time(), "versions": package_versions(), "probe": content}

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
    # It answered some time between asking and the last answer.
    apart_s = max(began - answer["time"], answer["time"] - began - waited_s, 0.0)
    yield judge(
        f"{name}: clock",
        apart_s <= MOST_APART_S,
        f"{apart_s:.1f} s apart at least",
        "run a time service (chrony) on all nodes",
        "warn",
    )
