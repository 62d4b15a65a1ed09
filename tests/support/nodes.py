"""A Ray cluster of several raylets on this machine."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster


@contextmanager
def cluster_of(roles: Sequence[str]) -> Iterator[Cluster]:
    """Yield a cluster with a node of one CPU for each of `roles`, its label, and an empty head."""
    with (
        tempfile.TemporaryDirectory(prefix="cn", dir="/tmp") as folder,  # sockets: short paths
        pytest.MonkeyPatch.context() as patch,
    ):
        # Ray notes the current cluster in its temporary folder: not in that of other runs.
        patch.setenv("RAY_TMPDIR", folder)
        head = {"num_cpus": 0, "include_dashboard": False}  # which nothing here asks
        started = Cluster(initialize_head=True, head_node_args=head)
        try:
            for role in roles:
                started.add_node(num_cpus=1, labels={"role": role})
            yield started
        finally:
            started.shutdown()


def labels_of_nodes(address: str) -> dict[str, str]:
    """Return {node id: role}."""
    ray.init(address=address, log_to_driver=False)
    try:
        return {node["NodeID"]: node["Labels"].get("role", "head") for node in ray.nodes()}
    finally:
        ray.shutdown()
