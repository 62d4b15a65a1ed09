"""The rollout actors that serve one learner's weights, which may be lost and come back.

    lost --> a new actor starts, beside everything else --> the next publish, in a new group
                                                              --> canary --> traffic

`Fleet` alone is for engines that nobody sends weights to; there a loss ends the run.
`driver.generation` samples on a fleet, and the loop's roles publish to it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coop_rl.config.schema import ServingConfig
from coop_rl.distributed.actors import RolloutActor, Whereabouts
from coop_rl.distributed.calls import AnyRef, Call, gather, open_result
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import Member
from coop_rl.driver.elastic import Elastic
from coop_rl.driver.membership import Membership, State
from coop_rl.driver.replacement import Replacements
from coop_rl.errors import ActorLostError, RunError
from coop_rl.metric_names import NUM_ROLLOUTS
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion

if TYPE_CHECKING:  # imports torch, which not everybody has use for
    from coop_rl.weights.publisher import SyncReport

MOST_TRIES = 3
"""Times that one version is sent, where receivers are lost on the way."""
Engine = Member[RolloutActor]
Check = Callable[[PolicyVersion, Sequence[Engine], Sequence[Engine]], None]
"""Gets a published version, all engines that it reached, and those of them that are new."""
Connect = Callable[[LearnerActor, list[Engine]], None]
Publish = Callable[[LearnerActor, PolicyVersion], "SyncReport"]


class Fleet:
    """Engines by id; an id is never used again."""

    def __init__(self, members: Sequence[Engine]) -> None:
        """Begin with started engines."""
        self._serving = dict(enumerate(members))
        self._num_ids = len(members)
        self._left: set[int] = set()
        """Lost or done, on nodes whose end was announced."""
        self._on_lost: Callable[[int], None] = lambda _: None
        self._on_admitted: Callable[[int], None] = lambda _: None
        self._close: Callable[[int], bool] = lambda _: True

    @property
    def serving(self) -> Mapping[int, Engine]:
        """Engines that may sample."""
        return self._serving

    def subscribe(
        self,
        on_lost: Callable[[int], None],
        on_admitted: Callable[[int], None],
        close: Callable[[int], bool],
    ) -> None:
        """Tell of engines that may sample no more, and of new ones that may, by id.

        `close` gives an engine nothing more to do, and says whether it has nothing left.
        """
        self._on_lost, self._on_admitted, self._close = on_lost, on_admitted, close

    def look(self) -> None:
        """Let engines come and go with the cluster's nodes, where they do; called in every wait."""

    def is_ending(self, engine: int) -> bool:
        """Whether the end of an engine's node was announced: its loss is nobody's doing."""
        return engine in self._left

    def lose(self, engine: int, error: ActorLostError) -> None:
        """Take in that an engine is lost.

        Raises:
            RunError: The run cannot go on without it.
        """
        del self._serving[engine]
        raise error

    def awaits_weights(self) -> bool:
        """Whether no engine may sample, and one would as soon as it got weights."""
        return False

    def calls(self) -> list[Call[object]]:
        """Return the calls under way."""
        return []

    def refs(self) -> Sequence[AnyRef]:
        """Return the references of the calls under way, for `distributed.calls`."""
        return []

    def take(self, ref: AnyRef) -> None:
        """Take in a call that is ready, for `distributed.calls`."""


class SyncedFleet(Fleet):
    """Engines to which a learner group publishes; lost ones are replaced."""

    def __init__(
        self,
        config: ServingConfig,
        members: Sequence[Engine],
        ranks: Sequence[Member[LearnerActor]],
        replacements: Replacements,
        check: Check,
        *,
        connect: Connect = LearnerActor.connect_rollouts,
        publish: Publish = LearnerActor.publish,
        may_resend: bool = True,
        stages: Stages | None = None,
        elastic: Elastic | None = None,
    ) -> None:
        """Serve what `ranks` publish.

        Args:
            config: Sections `sync` and `placement` count.
            members: Started, and connected with the learners.
            ranks: Of the learner group that publishes.
            replacements: Put new actors into lost ones' places.
            check: Refuses engines that compute with other weights than were published.
            connect: How the ranks are told whom they send to.
            publish: How they are asked to send.
            may_resend: Whether the ranks still hold what is served while somebody waits for
                engines; else the loss of the last one ends the run.
            stages: Timers.
            elastic: Lets engines come and go; None: there are as many as there are.
        """
        super().__init__(members)
        self._ranks = ranks
        self._replacements = replacements
        self._check = check
        self._connect, self._publish = connect, publish
        self._may_resend = may_resend
        self._stages = stages or Stages()
        self._elastic = elastic
        self._is_sending = False
        self._closing: set[int] = set()
        self._sync_timeout_s = config.sync.timeout_s
        self._startup_timeout_s = config.placement.startup_timeout_s
        self._membership = Membership(member.name for member in members)
        self._members = {member.name: member for member in members}
        self._starting: dict[AnyRef, Call[Whereabouts]] = {}
        self._linked = list(members)
        self._was_published = False
        self._began = 0.0
        """When the newest start began, or an engine left."""

    def is_ending(self, engine: int) -> bool:
        """Whether the end of an engine's node was announced."""
        if self._elastic and engine in self._serving:
            return self._elastic.is_ending(self._serving[engine].name)
        return super().is_ending(engine)

    def lose(self, engine: int, error: ActorLostError) -> None:
        """Let a new actor start in the place of a lost engine; nobody waits for it.

        Raises:
            ActorLostError: Lost engines are not replaced here, or nobody could give a new one the
                weights that are served.
            BudgetSpentError: There were too many losses.
        """
        if engine in self._serving:
            self._replace(self._serving[engine], error)

    def awaits_weights(self) -> bool:
        """Whether no engine may sample, and one would as soon as it got weights.

        Raises:
            ActorLostError: No engine may sample, and none came up in time.
        """
        if self._serving:
            return False
        if self._membership.among(State.STALE):
            return True
        if self._began and time.monotonic() - self._began > self._startup_timeout_s:
            late = [start.actor for start in self._starting.values()]
            limit = f"placement.startup_timeout_s {self._startup_timeout_s:g} s"
            who = ", ".join(late) or "a rollout actor"
            text = f"{who} did not come up within {limit}, and no other engine is left"
            raise ActorLostError(text, late, "hung")
        return False

    def look(self) -> None:
        """Let engines come and go with the cluster's nodes, but for those that are sent to."""
        if self._elastic and not self._is_sending:
            self._elastic.look(self)

    def calls(self) -> list[Call[object]]:
        """Return the starts under way."""
        return list(self._starting.values())

    def refs(self) -> Sequence[AnyRef]:
        """Return the references of the starts under way, for `distributed.calls`."""
        return list(self._starting)

    def take(self, ref: AnyRef) -> None:
        """Take in a new engine that is up, for `distributed.calls`."""
        start = self._starting.pop(ref)
        name = start.actor
        try:
            where = open_result(start, [])
        except RunError as error:
            self._replace(self._members[name], error)
            return
        self._membership.up(name)
        self._replacements.up(name, where)

    def publish(self, version: PolicyVersion) -> None:
        """Send `version` to every engine there is, and let those that are new sample then.

        Where all are lost nothing is sent; the first new one gets the weights when it is up.

        Raises:
            ActorLostError: Receivers were lost again and again.
            WeightSyncError: The weights did not arrive, or an engine computes with others.
        """
        self._replacements.step = version.theta
        self._was_published = True
        with self._stages.stage("publish"):
            report = self._send(version)
        if report is None:
            return
        self._stages.count("sync/bytes", report.num_bytes)
        self._stages.count("sync/seconds", report.seconds)
        self._stages.note("sync/shares_memory", float(report.shares_memory))
        self._check_all(version)
        for name in self._membership.checked():
            self._serving[self._num_ids] = self._members[name]
            self._on_admitted(self._num_ids)
            self._num_ids += 1
            if not self._replacements.back(name) and self._elastic:
                self._elastic.joined(name, len(self._serving))
        if self._elastic:
            self._stages.note(NUM_ROLLOUTS, len(self._serving))

    def publish_scaffold(self, version: PolicyVersion) -> None:
        """Send theta + s*B*A to the engines that sample; a new one gets theta before that."""
        if not self._serving:
            self.publish(version)
        self._deliver(version, LearnerActor.publish_scaffold, lambda: list(self._serving.values()))

    def _send(self, version: PolicyVersion) -> "SyncReport | None":
        def receivers() -> list[Engine]:
            return [self._members[name] for name in self._membership.joined()]

        report = self._deliver(version, self._publish, receivers)
        self._membership.published(self._membership.among(State.JOINED))
        return report

    def _deliver(
        self, version: PolicyVersion, publish: Publish, receivers: Callable[[], list[Engine]]
    ) -> "SyncReport | None":
        """Send to all receivers; where some are lost on the way, send to the others once more."""
        for _ in range(MOST_TRIES):
            engines = receivers()
            if not engines:
                return None
            with self._sending():
                self._link(engines)
                sending = [rank.call(publish, version) for rank in self._ranks]
                # A sync is several calls, each limited by sync.timeout_s.
                report = gather(sending, 4 * self._sync_timeout_s)[0]
            if not report.lost:
                return report
            lost = dict(report.lost)
            for engine in engines:
                if engine.name in lost:
                    self._replace(engine, ActorLostError(lost[engine.name], [engine.name]))
        reasons = "; ".join(lost.values())
        who = ", ".join(sorted(lost))
        text = f"{who} lost while receiving {version}, the last of {MOST_TRIES} such losses"
        raise ActorLostError(f"{text}: {reasons}", sorted(lost))

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Let no engine go that weights are on the way to: the sync would fail for all."""
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False

    def _link(self, engines: list[Engine]) -> None:
        """Tell the learners whom they send to, where that has changed."""
        if engines != self._linked:
            connecting = [rank.call(self._connect, engines) for rank in self._ranks]
            gather(connecting, self._sync_timeout_s)
            self._linked = engines

    def _check_all(self, version: PolicyVersion) -> None:
        """Check the engines that a publish reached; those that are lost meanwhile are replaced."""
        while True:
            new = [self._members[name] for name in self._membership.among(State.JOINED)]
            engines = [*self._serving.values(), *new]
            try:
                self._check(version, engines, new)
                return
            except ActorLostError as error:
                lost = [engine for engine in engines if engine.name in error.actors]
                if not lost:
                    raise
                for engine in lost:
                    self._replace(engine, error)

    def _replace(self, lost: Engine, error: RunError) -> None:
        """Let a new actor start, unless another caller has seen to that already."""
        if self._members.get(lost.name) is not lost:
            return
        is_last = all(member is lost for member in self._serving.values())
        if is_last and not (self._may_resend and self._was_published):
            raise error
        name = lost.name
        if self._elastic and self._elastic.is_ending(name):
            self._leave(name)
            return
        new, pause_s = self._replacements.begin(lost, error)
        self._membership.lost(name)
        self._forget(lost)
        self._begin(new, self._replacements.place(name), pause_s)

    def join(self, new: Engine) -> None:
        """Let one more engine start, beside everything else."""
        self._begin(new, None)

    def retire(self, name: str) -> None:
        """Give an engine nothing more to do, and let it go once it has nothing left.

        The last one that samples goes on: without it everybody would wait.
        """
        mine = {e for e, member in self._serving.items() if member is self._members[name]}
        is_last = not self._serving.keys() - mine - self._closing
        if mine - self._closing and is_last:
            return
        self._closing |= mine
        if all(self._close(engine) for engine in mine):
            self._leave(name)

    def _leave(self, name: str) -> None:
        """Forget an engine in whose place nobody comes for now."""
        assert self._elastic is not None
        member = self._members.pop(name)
        self._left |= {engine for engine, serving in self._serving.items() if serving is member}
        self._membership.left(name)
        self._forget(member)
        self._starting = {r: start for r, start in self._starting.items() if start.actor != name}
        self._replacements.left(name)
        self._began = time.monotonic()
        self._elastic.left(member, len(self._serving))

    def _forget(self, lost: Engine) -> None:
        """Take an engine from those that sample; what it had goes to others."""
        for engine in [e for e, member in self._serving.items() if member is lost]:
            del self._serving[engine]
            self._closing.discard(engine)
            self._on_lost(engine)

    def _begin(self, new: Engine, lost: Whereabouts | None, pause_s: float = 0.0) -> None:
        """Start an engine after a pause, in the place of one that was `lost` there, if any."""
        self._members[new.name] = new
        self._membership.starting(new.name)
        start = new.call(RolloutActor.start, lost, pause_s)
        self._starting[start.ref] = start
        self._began = time.monotonic() + pause_s
