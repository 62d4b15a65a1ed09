"""What the cluster's autoscaler, if it has one, says of the room a run asks for.

Called by `distributed.placement` while a run waits for nodes. Ray offers no public way to it;
`tests/main_job/test_autoscaling.py` proves what is used here.
"""

import json
from typing import Any

import ray
from ray.core.generated import autoscaler_pb2

TIMEOUT_S = 10.0
"""Longest wait for the control store."""
NAMESPACE = b"__autoscaler"
"""Where version 2 notes in the control store that it runs."""
READ_ONLY_PREFIX = "node_"
"""Version 1 calls node types so on a cluster whose size nobody changes."""


def may_grow() -> bool:
    """Whether an autoscaler runs that may add nodes; version 2 may still say that it cannot."""
    if _is_version_2():
        return bool(_state().autoscaler_state_version)
    status = json.loads(_store_get(b"__autoscaling_status", None) or "{}")
    kinds = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not kind.startswith(READ_ONLY_PREFIX) for kind in kinds)


def impossible_groups() -> set[str]:
    """Return the ids (hex) of placement groups that no node it may add would make room for.

    Version 1 does not say: empty.
    """
    if not _is_version_2():
        return set()
    # "<group id>:<strategy>|<state>"
    return {group.details.partition(":")[0] for group in _state().infeasible_gang_resource_requests}


def _is_version_2() -> bool:
    return _store_get(b"__autoscaler_v2_enabled", NAMESPACE) == b"1"


def _store_get(key: bytes, namespace: bytes | None) -> bytes | None:
    value: bytes | None = _store().internal_kv_get(key, namespace, timeout=TIMEOUT_S)
    return value


def _state() -> Any:
    """Return version 2's `AutoscalingState`."""
    messages: Any = autoscaler_pb2
    reply = messages.GetClusterStatusReply()
    reply.ParseFromString(_store().get_cluster_status(timeout_s=TIMEOUT_S))
    return reply.autoscaling_state


def _store() -> Any:
    """Return the client of the cluster's control store."""
    worker: Any = ray._private.worker.global_worker
    return worker.gcs_client
