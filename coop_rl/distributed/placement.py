"""Placement groups: one for each role, with a bundle for each of its actors.

A group is placed as a whole, so no actor of a role starts before all of them have room. On a
cluster that scales, asking for a group is what makes it grow. Groups go when the run ends.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from coop_rl.config.roles import RoleResources
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import role_counts
from coop_rl.distributed.calls import wait_a_moment
from coop_rl.errors import ResourceError

TOLERANCE = 1e-6
LOOK_S = 0.02
REPORT_EVERY_S = 30.0
"""How often a run that waits for nodes says what is missing."""


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Nodes of the same size."""

    resources: dict[str, float]
    labels: dict[str, str] | None
    """None: Ray does not tell those of nodes that are not there yet."""
    count: float
    """How many there are, or may be."""


class Placement:
    """Where each role's actors go."""

    def __init__(self, groups: Mapping[str, PlacementGroup]) -> None:
        """Place into `groups`, by role; roles that reserve nothing have none."""
        self._groups = groups

    def options(self, role: str, index: int) -> dict[str, Any]:
        """Return the options that put actor `index` of `role` into its bundle."""
        if role not in self._groups:
            return {}
        strategy = PlacementGroupSchedulingStrategy(
            self._groups[role], placement_group_bundle_index=index
        )
        return {"scheduling_strategy": strategy}


@contextmanager
def reserved(config: ServingConfig, report: Callable[[str], None]) -> Iterator[Placement]:
    """Reserve what every role needs, and give it back on leaving.

    Args:
        config: The sections `placement`, `rollout` and `learner` count.
        report: Gets a line every 30 s while something is missing.

    Raises:
        ResourceError: No node of the cluster, now or scaled up, can hold an actor, or there was not
            enough room within `placement.startup_timeout_s`.
    """
    wanted = {
        role: (count, need)
        for role, (count, need) in role_counts(config).items()
        if count and resources_of(need)
    }
    _require_enough(wanted)
    groups = {role: _ask(role, count, need) for role, (count, need) in wanted.items()}
    try:
        _wait(groups, wanted, config.placement.startup_timeout_s, report)
        yield Placement(groups)
    finally:
        for group in groups.values():
            remove_placement_group(group)


def resources_of(need: RoleResources) -> dict[str, float]:
    """Return what Ray reserves for one actor."""
    return {kind: n for kind, n in (("CPU", need.cpus), ("GPU", need.gpus)) if n}


def _ask(role: str, count: int, need: RoleResources) -> PlacementGroup:
    labels = [dict(need.labels)] * count if need.labels else None
    group: PlacementGroup = placement_group(
        [resources_of(need)] * count,
        strategy=need.strategy.upper(),
        # For `ray list placement-groups`; unique, or a second run on the cluster is refused.
        name=f"coop-rl {role} {uuid.uuid4().hex[:8]}",
        bundle_label_selector=labels,
    )
    return group


def _wait(
    groups: Mapping[str, PlacementGroup],
    wanted: Mapping[str, tuple[int, RoleResources]],
    limit_s: float,
    report: Callable[[str], None],
) -> None:
    pending = dict(groups)
    began = reported = time.monotonic()
    while True:
        # Not `ready()`, which is a task and so waits for a worker process as well.
        pending = {role: g for role, g in pending.items() if not g.wait(LOOK_S)}
        if not pending:
            return
        wait_a_moment([], began + limit_s - time.monotonic())
        now = time.monotonic()
        if now - began >= limit_s:
            raise ResourceError(
                f"no room within placement.startup_timeout_s {limit_s:g} s: "
                f"{_missing(pending, wanted)}; add nodes, or lower placement, "
                "rollout.num_actors or learner.num_ranks"
            )
        if now - reported >= REPORT_EVERY_S:
            reported = now
            report(f"waiting for nodes: {_missing(pending, wanted)}")


def _missing(roles: Iterable[str], wanted: Mapping[str, tuple[int, RoleResources]]) -> str:
    """Say what is asked for and what is free."""
    parts = [f"{role} needs {describe(*wanted[role])}" for role in roles]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    have = ", ".join(f"{free.get(kind, 0.0):g} {kind}" for kind in ("CPU", "GPU"))
    return f"{'; '.join(parts)}; free are {have}"


def describe(count: int, need: RoleResources) -> str:
    """Return what a role asks for, in words."""
    each = " + ".join(f"{n:g} {kind}" for kind, n in resources_of(need).items())
    labels = ", ".join(f"{key}={value}" for key, value in need.labels.items())
    return f"{count} x ({each}), {need.strategy}" + (f", on nodes with {labels}" if labels else "")


def _require_enough(wanted: Mapping[str, tuple[int, RoleResources]]) -> None:
    """Refuse at once what this cluster could never hold."""
    kinds = node_kinds()
    for role, (_, need) in wanted.items():
        _require_some_node(role, need, kinds)
    for kind in ("CPU", "GPU"):
        asked = {role: n * resources_of(need).get(kind, 0.0) for role, (n, need) in wanted.items()}
        total = sum(asked.values())
        most = sum(node.resources.get(kind, 0.0) * node.count for node in kinds)
        if total > most + TOLERANCE:
            parts = " + ".join(f"{role} {n:g}" for role, n in asked.items() if n)
            raise ResourceError(
                f"{total:g} {kind}s are asked for ({parts}), this cluster has at most {most:g}, "
                f"scaled up; lower placement.*.{kind.lower()}s, rollout.num_actors or "
                "learner.num_ranks"
            )


def _require_some_node(role: str, need: RoleResources, kinds: Sequence[NodeKind]) -> None:
    asked = resources_of(need)
    if any(
        all(node.resources.get(kind, 0.0) >= n for kind, n in asked.items())
        and (node.labels is None or need.labels.items() <= node.labels.items())
        for node in kinds
    ):
        return
    largest = {kind: max(node.resources.get(kind, 0.0) for node in kinds) for kind in asked}
    have = ", ".join(f"{n:g} {kind}" for kind, n in largest.items())
    raise ResourceError(
        f"no node of this cluster, now or scaled up, can hold {describe(1, need)} for {role}: the "
        f"most a node has is {have}; lower placement, or change its labels"
    )


def node_kinds() -> list[NodeKind]:
    """Return the nodes that are there, and those that the autoscaler may add to them."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    found = [NodeKind(dict(n["Resources"]), dict(n.get("Labels") or {}), 1) for n in alive]
    # Not public, and the only way to the autoscaler's limits (tests/distributed/test_placement.py).
    config = ray._private.state.state.get_cluster_config()
    for group in config.node_group_configs if config is not None else ():
        # Nodes that run already are counted twice: a limit that is too high only delays the error.
        count = math.inf if group.max_count < 0 else group.max_count
        if count:
            found.append(NodeKind({k: float(v) for k, v in group.resources.items()}, None, count))
    return found
