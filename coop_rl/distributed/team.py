"""The actors of one run or evaluation, by role, and the start-up that links them.

meta --- "guidance" group --- joint ranks, shadow ranks         (push of w)
joint rank r --- "resync" group --- shadow rank r               (their parts of theta's state)
joint rank 0 --- weight transfer (vLLM) --- engine workers      (merged weights)
shadow rank 0 --- weight transfer --- its own engine workers    (only where the shadow samples)
joint ranks among themselves, shadow ranks among themselves     (DeepSpeed's torch worlds)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from coop_rl.distributed.calls import Call, gather

GUIDANCE_GROUP = "guidance"
RESYNC_GROUP = "resync"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an actor runs."""

    node_id: str
    """Ray's, as `ray list nodes` shows it."""
    address: str
    """The node's IP address."""
    pid: int
    gpus: list[str]
    """Ids of the node's devices that are the actor's."""


@dataclass(frozen=True, slots=True)
class Member:
    """One actor and the name it has in errors, logs and `ray list actors`."""

    name: str
    handle: ActorHandle[Any]

    def call(self, phase: str, method: str, *arguments: Any) -> Call:
        """Start a remote call."""
        return Call(self.name, phase, getattr(self.handle, method).remote(*arguments))


@dataclass(frozen=True, slots=True)
class Team:
    """All actors of a run."""

    rollouts: tuple[Member, ...]
    reward: Member
    shadow_rollouts: tuple[Member, ...] = ()
    """Serve the shadow; empty where nothing is sampled from it."""
    joint: tuple[Member, ...] = ()
    """Empty: nothing is trained."""
    shadow: tuple[Member, ...] = ()
    meta: Member | None = None
    engine_gpus: float = 0.0
    """Devices of one engine; a fraction: others run on the same device."""

    @property
    def learners(self) -> tuple[Member, ...]:
        """Both branches, in the order of the guidance group's ranks 1, 2, ..."""
        return self.joint + self.shadow

    @property
    def all(self) -> tuple[Member, ...]:
        """Every actor."""
        meta = (self.meta,) if self.meta else ()
        return self.engines + self.learners + meta + (self.reward,)

    @property
    def engines(self) -> tuple[Member, ...]:
        """The rollout actors of both branches."""
        return self.rollouts + self.shadow_rollouts

    def start(
        self,
        startup_timeout_s: float,
        sync_timeout_s: float,
        sources: Sequence[str],
        report: Callable[[str], None],
    ) -> dict[str, Whereabouts]:
        """Bring every process up, then link them; return where each one runs, by name.

        Args:
            startup_timeout_s: Limit of each start.
            sync_timeout_s: Limit of joining a group.
            sources: Names of the demonstrations' sources, for the meta-controller.
            report: Gets one line per milestone.
        """
        starting = self._start_engines(startup_timeout_s)
        worlds = [group for group in (self.joint, self.shadow) if group]
        opened = [group[0].call("open world", "open_world") for group in worlds]
        for group, address in zip(worlds, gather(opened, startup_timeout_s), strict=True):
            starting += [member.call("start", "start", *address) for member in group]
        if self.meta:
            starting.append(self.meta.call("start", "start", list(sources)))
        found = gather(starting, startup_timeout_s)
        places: dict[str, Whereabouts] = {c.actor: w for c, w in zip(starting, found, strict=True)}
        num_nodes = len({place.node_id for place in places.values()})
        report(f"{len(self.all)} actors are up" + (f" on {num_nodes} nodes" * (num_nodes > 1)))
        if self.meta:
            self._link(GUIDANCE_GROUP, (self.meta, *self.learners), sync_timeout_s)
        for pair in zip(self.joint, self.shadow, strict=False):  # a run may have no shadow
            self._link(RESYNC_GROUP, pair, sync_timeout_s)
        for learners, engines in (
            (self.joint, self.rollouts),
            (self.shadow, self.shadow_rollouts),
        ):
            handles = [member.handle for member in engines]
            if handles:
                connecting = [
                    m.call("connect rollouts", "connect_rollouts", handles) for m in learners
                ]
                gather(connecting, startup_timeout_s)
        if self.learners:
            report("weight sync and guidance groups are connected")
        return places

    def _start_engines(self, timeout_s: float) -> list[Call]:
        """Start the reward actor and the engines, and wait where others will share their devices.

        vLLM measures what is free while it starts: what others take meanwhile it counts as its own,
        and where they give something back it fails.
        """
        starting = [self.reward.call("start", "start")]
        for engine in self.engines:
            starting.append(engine.call("start", "start"))
            if 0 < self.engine_gpus <= 0.5:  # two engines fit on one device
                gather(starting, timeout_s)
        if 0 < self.engine_gpus < 1:
            gather(starting, timeout_s)
        return starting

    def _link(self, name: str, members: Sequence[Member], timeout_s: float) -> None:
        """Join members into a named group; the first is rank 0 and holds its store."""
        (address,) = gather([members[0].call(f"open group {name}", "open_group", name)], timeout_s)
        gather(
            [
                member.call(f"join group {name}", "join_group", name, *address, rank, len(members))
                for rank, member in enumerate(members)
            ],
            timeout_s,
        )
