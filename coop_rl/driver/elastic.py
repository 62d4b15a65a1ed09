"""Rollout actors that come and go with the nodes of a cluster (`rollout.num_actors: {min, max}`).

    a place --join--> starts, beside everything else --> the next publish --> canary --> traffic
    a node's end is announced --retire--> no new groups --> nothing left --> gone, its place too

A place is asked for again at once, so that a cluster which scales brings another node. What is due
is looked for every few seconds in whatever wait the driver is in, and nothing here waits. Called by
`driver.fleet`; room and actors are `distributed`'s.
"""

import time
from collections.abc import Callable
from typing import Protocol

from coop_rl.distributed.actors import RolloutActor
from coop_rl.distributed.member import Member
from coop_rl.distributed.team import Team

LOOK_EVERY_S = 5.0
"""Two questions to Ray's control store, of a millisecond each."""
Engine = Member[RolloutActor]


class Places(Protocol):
    """Where rollout actors may lie: `distributed.placement.Room`."""

    def found(self) -> list[int]:
        """Return places that are free and have room."""
        ...

    def take(self, index: int) -> None:
        """Let an actor lie there."""
        ...

    def give_back(self, index: int) -> None:
        """Leave a place, whose actor is gone."""
        ...

    def ending(self) -> set[str]:
        """Return the ids of nodes whose end was announced."""
        ...


class Joinable(Protocol):
    """What a fleet does for those who come and go."""

    def join(self, new: Engine) -> None:
        """Let one more engine start."""
        ...

    def retire(self, name: str) -> None:
        """Let an engine go once it has nothing left."""
        ...


class Elastic:
    """Who comes and who goes."""

    def __init__(
        self,
        team: Team,
        places: Places,
        most: int,
        report: Callable[[str], None],
        note: Callable[[], object],
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Let rollout actors of `team` come and go.

        Args:
            team: All actors.
            places: Where they may lie.
            most: Rollout actors there may be.
            report: Gets a line when one joins, and when one leaves.
            note: Called once `team.places` has changed.
            every_s: Seconds between two looks at the cluster.
        """
        self._team, self._places, self._most = team, places, most
        self._report, self._note = report, note
        self._every_s = every_s
        self._looked_at = float("-inf")
        self._ending: set[str] = set()
        """Nodes whose end was ever announced: Ray forgets them with their end."""

    def look(self, fleet: Joinable) -> None:
        """Retire who lies on a node that ends, and let start who has found a place, when due."""
        if time.monotonic() - self._looked_at < self._every_s:
            return
        self._ending |= self._places.ending()
        for member in self._team.rollouts:
            if self.is_ending(member.name):
                fleet.retire(member.name)
        for index in self._places.found():
            self._places.take(index)
            fleet.join(self._team.add_rollout(f"rollout-{index}"))
        self._looked_at = time.monotonic()

    def is_ending(self, name: str) -> bool:
        """Whether the end of the node that an actor lies on was announced."""
        place = self._team.places.get(name)
        return place is not None and place.node_id in self._ending

    def joined(self, name: str, num_serving: int) -> None:
        """Tell of an actor that samples from now on."""
        self._report(f"{name} has joined: {self._in_words(num_serving)}")

    def left(self, member: Engine, num_serving: int) -> None:
        """Give the place of an actor back, and tell of it."""
        self._team.remove_rollout(member)
        self._places.give_back(int(member.name.rpartition("-")[2]))
        self._note()
        self._report(
            f"{member.name} has left, the end of its node was announced: "
            f"{self._in_words(num_serving)}"
        )

    def _in_words(self, num_serving: int) -> str:
        return f"{num_serving} of at most {self._most} rollout actors sample"
