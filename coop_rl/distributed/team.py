"""The actors of one run or evaluation, by role, and the start-up that links them.

`distributed.build` creates a team, a command starts it, and `driver/` calls its members.

meta --- "w" group --- joint ranks, shadow ranks                (push of w)
joint rank r --- "resync" group --- shadow rank r               (their parts of theta's state)
joint rank 0 --- weight transfer (vLLM) --- engine workers      (merged weights)
joint rank 0 --- weight transfer --- the evaluation's engines   (only where it has its own)
shadow rank 0 --- weight transfer --- its own engine workers    (only where the shadow samples)
joint ranks among themselves, shadow ranks among themselves     (DeepSpeed's torch worlds)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from coop_rl.distributed.actors import (
    MetaControllerActor,
    PeerShell,
    RewardActor,
    RolloutActor,
    Shell,
    Whereabouts,
)
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import Member, argument
from coop_rl.distributed.placement import Room
from coop_rl.learner.groups import RESYNC_GROUP, W_GROUP

if TYPE_CHECKING:
    from coop_rl.weights.process_group import SyncBackend

NAME_LIMIT_S = 5.0
"""How long a killed actor's name may stay taken; Ray 2.60 frees it after 0.02 s."""
A = TypeVar("A")


@dataclass(slots=True)
class Team:
    """All present actors of a run; an evaluation has rollout and reward actors only."""

    rollouts: tuple[Member[RolloutActor], ...]
    """Serve the policy that is trained or evaluated."""
    rewards: tuple[Member[RewardActor], ...]
    """Judge what is sampled."""
    shadow_rollouts: tuple[Member[RolloutActor], ...] = ()
    """Serve the shadow; empty where nothing is sampled from it."""
    evaluation_rollouts: tuple[Member[RolloutActor], ...] = ()
    """Serve the version that is evaluated; empty where `rollouts` are evaluated."""
    joint: tuple[Member[LearnerActor], ...] = ()
    """Ranks of the joint learner; empty where nothing is trained."""
    shadow: tuple[Member[LearnerActor], ...] = ()
    """Ranks of the shadow; empty where the method has none."""
    meta: Member[MetaControllerActor] | None = None
    """The keeper of w; None where the method has no guidance."""
    shadow_backend: "SyncBackend" = "gloo"
    """How theta gets from `joint` to `shadow`."""
    engine_gpus: float = 0.0
    """Devices that one engine reserves; a fraction means that others run on the same device."""
    remake: Callable[[str], Member[Any]] | None = None
    """Creates the actor of a name anew, in the same bundle and with the same log."""
    room: Room | None = None
    """Where more rollout actors may come to lie; None: there are as many as there are."""
    places: dict[str, Whereabouts] = field(default_factory=dict)
    """Where each actor runs, by name, once it has started."""

    @property
    def learners(self) -> tuple[Member[LearnerActor], ...]:
        """All ranks of both branches, in the order of their ranks 1, 2, ... where w is pushed."""
        return self.joint + self.shadow

    @property
    def all(self) -> tuple[Member[Shell], ...]:
        """Every actor."""
        meta = (self.meta,) if self.meta else ()
        return (*self.engines, *self.learners, *meta, *self.rewards)

    @property
    def expendable(self) -> tuple[Member[Shell], ...]:
        """Actors that can be replaced alone: they hold nothing that others lack."""
        return (*self.engines, *self.rewards)

    @property
    def engines(self) -> tuple[Member[RolloutActor], ...]:
        """All rollout actors."""
        return self.rollouts + self.shadow_rollouts + self.evaluation_rollouts

    def start(
        self,
        startup_timeout_s: float,
        sync_timeout_s: float,
        sources: Sequence[str],
        report: Callable[[str], None],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Bring every process up, then link them; `places` then holds where each one runs.

        Args:
            startup_timeout_s: Limit of each start.
            sync_timeout_s: Limit of joining a group.
            sources: Names of the demonstrations' sources, for the meta-controller.
            report: Gets one line per milestone.
            meanwhile: Done while the processes start, which takes them seconds.
        """
        starting = self._start_engines(startup_timeout_s)
        worlds = [group for group in (self.joint, self.shadow) if group]
        opened = [ranks[0].call(LearnerActor.open_world) for ranks in worlds]
        meanwhile()
        for ranks, store in zip(worlds, gather(opened, startup_timeout_s), strict=True):
            starting += [member.call(LearnerActor.start, *store) for member in ranks]
        if self.meta:
            # Straight from a learner, which has loaded the model.
            shapes = argument(self.joint[0].call(LearnerActor.adapter_shapes).ref)
            starting.append(self.meta.call(MetaControllerActor.start, list(sources), shapes))
        started = gather(starting, startup_timeout_s)
        self.places = {call.actor: where for call, where in zip(starting, started, strict=True)}
        num_nodes = len({where.node_id for where in started})
        report(f"{len(self.all)} actors are up" + (f" on {num_nodes} nodes" * (num_nodes > 1)))
        self._link_all(startup_timeout_s, sync_timeout_s)
        if self.learners:
            report("weight sync and guidance groups are connected")

    def replace(self, lost: Member[A]) -> Member[A]:
        """Put a new actor of the same name into a lost one's place; its caller starts it.

        Whatever is left of the lost one is killed first: its name is taken as long as anybody holds
        a handle of an actor that Ray does not know to be dead.
        """
        ray.kill(lost.handle, no_restart=True)
        new: Member[A] = self._make(lost.name)
        self.rollouts = _with(self.rollouts, new)
        self.shadow_rollouts = _with(self.shadow_rollouts, new)
        self.evaluation_rollouts = _with(self.evaluation_rollouts, new)
        self.rewards = _with(self.rewards, new)
        return new

    def add_rollout(self, name: str) -> Member[RolloutActor]:
        """Create one more rollout actor, where `room` has a place; its caller starts it."""
        new: Member[RolloutActor] = self._make(name)
        self.rollouts = (*self.rollouts, new)
        return new

    def remove_rollout(self, member: Member[RolloutActor]) -> None:
        """Kill a rollout actor, and have one less."""
        self.rollouts = tuple(other for other in self.rollouts if other is not member)
        self.places.pop(member.name, None)
        ray.kill(member.handle, no_restart=True)

    def _make(self, name: str) -> Member[Any]:
        """Create an actor, whose name may still be taken for a moment."""
        assert self.remake is not None, "this team has who it has"
        deadline = time.monotonic() + NAME_LIMIT_S
        while True:
            try:
                return self.remake(name)
            except ValueError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _start_engines(self, timeout_s: float) -> list[Call[Whereabouts]]:
        """Start reward actors and engines, and wait where others will share their devices.

        vLLM measures what is free while it starts: what others take meanwhile it counts as its own,
        and where they give something back it fails.
        """
        starting = [reward.call(RewardActor.start) for reward in self.rewards]
        for engine in self.engines:
            starting.append(engine.call(RolloutActor.start))
            if 0 < self.engine_gpus <= 0.5:  # two engines fit on one device
                gather(starting, timeout_s)
        if 0 < self.engine_gpus < 1:
            gather(starting, timeout_s)
        return starting

    def _link_all(self, startup_timeout_s: float, sync_timeout_s: float) -> None:
        """Join learners and the meta-controller into groups, and learners with their engines.

        Everybody takes the calls in this order, so all of them can be started at once.
        """
        groups: list[tuple[str, SyncBackend, Sequence[Member[PeerShell]]]] = []
        if self.meta:
            groups.append((W_GROUP, "gloo", (self.meta, *self.learners)))
        for pair in zip(self.joint, self.shadow, strict=False):  # a run may have no shadow
            groups.append((RESYNC_GROUP, self.shadow_backend, pair))
        opening = [members[0].call(PeerShell.open_group, name) for name, _, members in groups]
        stores = gather(opening, sync_timeout_s)
        joining = [
            member.call(PeerShell.join_group, name, *store, rank, len(members), backend)
            for (name, backend, members), store in zip(groups, stores, strict=True)
            for rank, member in enumerate(members)
        ]
        connecting = [
            learner.call(connect, list(engines))
            for ranks, connect, engines in (
                (self.joint, LearnerActor.connect_rollouts, self.rollouts),
                (self.joint, LearnerActor.connect_evaluation, self.evaluation_rollouts),
                (self.shadow, LearnerActor.connect_rollouts, self.shadow_rollouts),
            )
            for learner in ranks
            if engines
        ]
        gather(joining, sync_timeout_s)
        gather(connecting, startup_timeout_s)


def _with(members: tuple[Member[A], ...], new: Member[Any]) -> tuple[Member[A], ...]:
    """Return the members with `new` in the place of the one of its name, if that is among them."""
    return tuple(new if member.name == new.name else member for member in members)
