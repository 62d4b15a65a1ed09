"""Ray's placement groups: one for each role, with a bundle for each of its actors.

    config --reserved--> Placement --options(role, i)--> distributed.build creates the actor there

A group is placed as a whole, so no actor of a role starts before all of them have room. Roles tied
to labelled nodes are placed first, then those with GPUs, then the others. On a cluster that scales,
asking for a group is what makes it grow. Groups go when the run ends. Rollout actors that come and
go (`rollout.num_actors: {min, max}`) have a group each, since a group cannot grow (`Room`).

Roles that reserve nothing go where rank 0 of `joint` is. Ray alone would put them on any node, also
on one for rollouts that may be taken away, and no run survives the meta-controller's loss.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from coop_rl.config.roles import RoleResources
from coop_rl.config.schema import RunConfig, ServingConfig
from coop_rl.config.sizes import role_counts
from coop_rl.distributed import autoscaler
from coop_rl.distributed.calls import lost_ray_process, wait_a_moment
from coop_rl.errors import ResourceError

TOLERANCE = 1e-6
"""Sums of fractions of devices may be so far off."""
REPORT_EVERY_S = 30.0
"""How often a run that waits for nodes says what is missing."""
IMPOSSIBLE_FOR_S = 5.0
"""How long the autoscaler must say it cannot make room: nodes that leave count for a moment."""
ANCHOR = "learner joint"
"""The role whose first actor's node also holds the roles that reserve nothing."""
ADVICE = "add nodes, or lower placement, rollout.num_actors or learner.num_ranks"


class Placement:
    """Where each role's actors go."""

    def __init__(self, groups: Mapping[str, PlacementGroup], room: "Room | None" = None) -> None:
        """Put actors into the group of their role; roles that reserve nothing have none.

        `room` is where more rollout actors may come to lie; None: nowhere.
        """
        self._groups = groups
        self.room = room

    def options(self, role: str, index: int) -> dict[str, Any]:
        """Return the options that put actor `index` of `role` into its bundle."""
        if (own := f"{role} {index}") in self._groups:
            role, index = own, 0
        if role not in self._groups:
            role, index = ANCHOR, 0
        if role not in self._groups:
            return {}
        strategy = PlacementGroupSchedulingStrategy(
            self._groups[role], placement_group_bundle_index=index
        )
        return {"scheduling_strategy": strategy}


class Room:
    """Places for rollout actors that come and go with the cluster's nodes; nothing here waits."""

    def __init__(self, need: RoleResources, groups: dict[str, PlacementGroup], most: int) -> None:
        """Add to `groups`, and take from them; `most` places in all, those that exist included."""
        self._need = need
        self._groups = groups
        self._most = most
        self._taken = {i for i in range(most) if _own(i) in groups}

    def found(self) -> list[int]:
        """Return places that are free and have room; ask for those not asked for yet."""
        free = [i for i in range(self._most) if i not in self._taken]
        for index in free:
            if _own(index) not in self._groups:
                self._groups[_own(index)] = _ask(_own(index), 1, self._need)
        tables = {index: placement_group_table(self._groups[_own(index)]) for index in free}
        ready = [index for index, table in tables.items() if table["state"] == "CREATED"]
        ending = self.ending() if ready else set()
        # Ray moves those that lie on a node that ends, once it has ended.
        return [i for i in ready if ending.isdisjoint(tables[i]["bundles_to_node_id"].values())]

    def take(self, index: int) -> None:
        """Let an actor lie there."""
        self._taken.add(index)

    def give_back(self, index: int) -> None:
        """Leave a place, whose actor is gone."""
        self._taken.discard(index)
        remove_placement_group(self._groups.pop(_own(index)))

    def ending(self) -> set[str]:
        """Return the ids of nodes whose end Ray was told of: spot nodes, and scaling down.

        Ray 2.60 says so in its internal state alone, where Ray Train looks too; `ray.nodes()` does
        not tell them from others.
        """
        state: Any = ray._private.state.state
        return set(state.get_draining_nodes())


def _own(index: int) -> str:
    return f"rollout {index}"


@contextmanager
def reserved(config: ServingConfig, report: Callable[[str], None]) -> Iterator[Placement]:
    """Reserve what every role needs, and give it back on leaving.

    Args:
        config: The sections `placement`, `rollout` and `learner` count.
        report: Gets a line every 30 s while something is missing.

    Raises:
        ResourceError: Too few nodes came; or the cluster, scaled up as far as it may be, cannot
            hold all actors; or there was not enough room within `placement.startup_timeout_s`.
    """
    wanted = _wanted(config)
    began, limit_s = time.monotonic(), config.placement.startup_timeout_s
    _wait_for_nodes(config.placement.min_nodes, began, limit_s, report)
    if (lack := _what_lacks(wanted)) and not autoscaler.may_grow():
        raise ResourceError(f"{lack}; {ADVICE}")
    groups: dict[str, PlacementGroup] = {}
    try:
        for precedence in sorted({_precedence(need) for _, need in wanted.values()}):
            asked = {r: w for r, w in wanted.items() if _precedence(w[1]) == precedence}
            groups |= {role: _ask(role, count, need) for role, (count, need) in asked.items()}
            _wait({role: groups[role] for role in asked}, wanted, began, limit_s, report)
        is_elastic, most = _is_elastic(config), config.rollout.max_actors
        room = Room(config.placement.rollout, groups, most) if is_elastic else None
        yield Placement(groups, room)
    finally:
        for group in groups.values() if lost_ray_process() is None else ():
            remove_placement_group(group)


def _is_elastic(config: ServingConfig) -> bool:
    """Whether a training run's rollout actors come and go; an evaluation's do not."""
    return config.rollout.is_elastic and isinstance(config, RunConfig)


def _wanted(config: ServingConfig) -> dict[str, tuple[int, RoleResources]]:
    """Return what each role needs that reserves anything, which is what a run begins with."""
    counts = role_counts(config)
    if _is_elastic(config):
        count, need = counts.pop("rollout")
        counts = {_own(i): (1, need) for i in range(count)} | counts
    return {role: (n, need) for role, (n, need) in counts.items() if n and resources_of(need)}


def resources_of(need: RoleResources) -> dict[str, float]:
    """Return what Ray reserves for one actor."""
    return {kind: n for kind, n in (("CPU", need.cpus), ("GPU", need.gpus)) if n}


def _precedence(need: RoleResources) -> int:
    """Return when a role is placed: who can lie anywhere takes no room others depend on."""
    return 0 if need.labels else 1 if need.gpus else 2


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


def _wait_for_nodes(
    count: int, began: float, limit_s: float, report: Callable[[str], None]
) -> None:
    """Wait until the cluster has so many nodes."""
    reported = time.monotonic()
    while (found := len(_alive())) < count:
        now = time.monotonic()
        if now - began >= limit_s:
            raise ResourceError(
                f"{found} of placement.min_nodes {count} nodes came within "
                f"placement.startup_timeout_s {limit_s:g} s; start the others, or lower it"
            )
        if now - reported >= REPORT_EVERY_S:
            reported = now
            report(f"waiting for nodes: {found} of {count} are there")
        wait_a_moment([], began + limit_s - now)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _wait(
    groups: Mapping[str, PlacementGroup],
    wanted: Mapping[str, tuple[int, RoleResources]],
    began: float,
    limit_s: float,
    report: Callable[[str], None],
) -> None:
    """Wait until all groups have room; `wanted` are all roles', which share the nodes."""
    pending = dict(groups)
    reported = possible = time.monotonic()
    while True:
        pending = {role: group for role, group in pending.items() if not _has_room(group)}
        if not pending:
            return
        wait_a_moment([], began + limit_s - time.monotonic())
        now = time.monotonic()
        # Groups that fit on the nodes there are only wait for other work; nodes come and go.
        lack = _what_lacks(wanted)
        if not lack or pending.keys().isdisjoint(_impossible(groups)):
            possible = now
        elif now - possible >= IMPOSSIBLE_FOR_S:
            raise ResourceError(f"{lack}, and its autoscaler may not add enough; {ADVICE}")
        if now - began >= limit_s:
            raise ResourceError(
                f"no room within placement.startup_timeout_s {limit_s:g} s: "
                f"{_missing(pending, wanted)}; {ADVICE}"
            )
        if now - reported >= REPORT_EVERY_S:
            reported = now
            report(f"waiting for nodes: {_missing(pending, wanted)}")


def _has_room(group: PlacementGroup) -> bool:
    """Look, without waiting.

    Not by `ready()`, a task, which waits for a worker process as well; nor by `wait`, whose limit
    is cut to whole seconds: with less than one, Ray 2.60 may deny a group that has long had room.
    """
    return bool(placement_group_table(group)["state"] == "CREATED")


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


def _impossible(groups: Mapping[str, PlacementGroup]) -> set[str]:
    """Return the roles for which the autoscaler cannot make room."""
    ids = autoscaler.impossible_groups()
    return {role for role, group in groups.items() if group.id.hex() in ids}


def _what_lacks(wanted: Mapping[str, tuple[int, RoleResources]]) -> str | None:
    """Say what the nodes that are there could not hold, were they free; None: nothing."""
    alive = _alive()
    for role, (_, need) in wanted.items():
        if lack := _no_node_for(role, need, alive):
            return lack
    for kind in ("CPU", "GPU"):
        asked = {role: n * resources_of(need).get(kind, 0.0) for role, (n, need) in wanted.items()}
        total = sum(asked.values())
        most = sum(node["Resources"].get(kind, 0.0) for node in alive)
        if total > most + TOLERANCE:
            parts = " + ".join(f"{role} {n:g}" for role, n in asked.items() if n)
            return f"{total:g} {kind}s are asked for ({parts}), this cluster has {most:g}"
    for role, (count, need) in wanted.items():
        if (room := _room(need, alive)) < count:
            return f"this cluster has room for {room} of {describe(count, need)} for {role}"
    return None


def _no_node_for(role: str, need: RoleResources, alive: Sequence[dict[str, Any]]) -> str | None:
    if _room(need, alive):
        return None
    asked = resources_of(need)
    largest = {kind: max(node["Resources"].get(kind, 0.0) for node in alive) for kind in asked}
    have = ", ".join(f"{n:g} {kind}" for kind, n in largest.items())
    return (
        f"no node of this cluster can hold {describe(1, need)} for {role}: the most one has is "
        f"{have}"
    )


def _room(need: RoleResources, alive: Sequence[dict[str, Any]]) -> int:
    """Return how many actors that need so much the nodes could hold, each role by itself."""
    asked = resources_of(need)
    held = [
        min(_times(n, node["Resources"].get(kind, 0.0), kind) for kind, n in asked.items())
        for node in alive
        if need.labels.items() <= (node.get("Labels") or {}).items()
    ]
    if need.strategy == "strict_spread":
        return sum(n > 0 for n in held)
    return max(held, default=0) if need.strategy == "strict_pack" else sum(held)


def _times(need: float, has: float, kind: str) -> int:
    """Return how often `has` holds `need`; a fraction of a GPU lies on one device."""
    if kind == "GPU" and need < 1:
        return int(has) * int(1 / need + TOLERANCE)
    return int(has / need + TOLERANCE)
