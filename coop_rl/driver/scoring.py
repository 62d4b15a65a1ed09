"""Sampled groups on their way through the reward actors, which may die.

    judge(group) --> the reward actor with the fewest groups --> on_scored
                        it dies --> another actor in its place; what it held is judged again

Scoring is repeatable, so nobody sees that it was done twice. A group that was judged when an actor
died is suspected of having killed it: it is judged again beside no other suspect, and where its
actor dies once more, its responses count as crashed. One object serves all generations of a run.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coop_rl.distributed.actors import RewardActor, Whereabouts
from coop_rl.distributed.calls import AnyRef, Call, open_result
from coop_rl.distributed.member import Member, argument
from coop_rl.driver.replacement import Replacements
from coop_rl.errors import ActorLostError, RunError
from coop_rl.rewards.verdict import CRASHED
from coop_rl.types import RolloutGroup, ScoredGroup

MOST_LOSSES = 2
"""Reward actors that may die while they judge one and the same group."""


@dataclass(slots=True, eq=False)
class _Judge:
    """A reward actor, and what it holds."""

    member: Member[RewardActor]
    num_groups: int = 0
    has_suspect: bool = False


@dataclass(slots=True, eq=False)
class _Group:
    """A group to be judged, and who waits for it."""

    sampled: Call[RolloutGroup]
    on_scored: Callable[[ScoredGroup], None]
    on_failed: Callable[[RunError], None]
    num_losses: int = 0


@dataclass(frozen=True, slots=True)
class _Judging:
    """A group under way."""

    call: Call[ScoredGroup]
    judge: _Judge
    group: _Group


class Scoring:
    """Groups under way on reward actors; a background of `distributed.calls`."""

    def __init__(
        self, members: Sequence[Member[RewardActor]], replacements: Replacements | None = None
    ) -> None:
        """Judge with `members`; without `replacements` the first loss ends the run."""
        self._judges = [_Judge(member) for member in members]
        self._replacements = replacements
        self._waiting: deque[_Group] = deque()
        self._suspects: deque[_Group] = deque()
        self._judging: dict[AnyRef, _Judging] = {}
        self._starting: dict[AnyRef, tuple[Member[RewardActor], Call[Whereabouts]]] = {}

    def judge(
        self,
        sampled: Call[RolloutGroup],
        on_scored: Callable[[ScoredGroup], None],
        on_failed: Callable[[RunError], None],
    ) -> None:
        """Judge what a rollout actor has sampled.

        It goes from there to the reward actor directly and is not fetched here, so whether sampling
        failed is known only now: `on_failed` gets why.
        """
        self._waiting.append(_Group(sampled, on_scored, on_failed))
        self._assign()

    def calls(self) -> list[Call[object]]:
        """Return the calls under way."""
        starting: list[Call[object]] = [call for _, call in self._starting.values()]
        return [*(entry.call for entry in self._judging.values()), *starting]

    def refs(self) -> Sequence[AnyRef]:
        """Return the references of the calls under way, for `distributed.calls`."""
        return [*self._judging, *self._starting]

    def take(self, ref: AnyRef) -> None:
        """Take in a scored group, or a reward actor that is up, for `distributed.calls`."""
        if ref in self._starting:
            self._take_on(*self._starting.pop(ref))
        elif ref in self._judging:
            self._take_in(self._pop(ref))
        self._assign()

    def scored(self, ref: AnyRef, group: ScoredGroup) -> None:
        """Hand on a verdict."""
        self._pop(ref).group.on_scored(group)

    def _pop(self, ref: AnyRef) -> _Judging:
        entry = self._judging.pop(ref)
        entry.judge.num_groups -= 1
        entry.judge.has_suspect &= not entry.group.num_losses
        return entry

    def _take_in(self, entry: _Judging) -> None:
        group = entry.group
        try:
            scored = open_result(entry.call, [])
        except RunError as error:
            try:
                sampled = open_result(group.sampled, [])
            except RunError as cause:  # nothing was sampled, and the reward actor is not to blame
                group.on_failed(cause)
                return
            if not isinstance(error, ActorLostError):
                raise
            self._lose(entry.judge, error)
            group.num_losses += 1
            if group.num_losses < MOST_LOSSES:
                self._suspects.append(group)
                return
            unscored = (CRASHED,) * len(sampled.rollouts)
            scored = ScoredGroup(sampled.prompt, sampled.rollouts, unscored)
        group.on_scored(scored)

    def _lose(self, judge: _Judge, error: ActorLostError) -> None:
        """Replace a reward actor, when the first of what it held has failed."""
        if judge not in self._judges:
            return
        self._judges.remove(judge)
        self._replace(judge.member, error)

    def _replace(self, lost: Member[RewardActor], error: RunError) -> None:
        if self._replacements is None:
            raise error
        new, pause_s = self._replacements.begin(lost, error)
        start = new.call(RewardActor.start, pause_s)
        self._starting[start.ref] = new, start

    def _take_on(self, new: Member[RewardActor], start: Call[Whereabouts]) -> None:
        assert self._replacements is not None
        try:
            where = open_result(start, [])
        except ActorLostError as error:
            self._replace(new, error)
            return
        self._judges.append(_Judge(new))
        self._replacements.up(new.name, where)
        self._replacements.back(new.name)

    def _assign(self) -> None:
        """Give every group that may be judged now to an actor."""
        for judge in self._judges:
            if self._suspects and not judge.has_suspect:
                judge.has_suspect = True
                self._send(judge, self._suspects.popleft())
        while self._waiting and self._judges:
            judge = min(self._judges, key=lambda judge: judge.num_groups)
            self._send(judge, self._waiting.popleft())

    def _send(self, judge: _Judge, group: _Group) -> None:
        call = judge.member.call(RewardActor.score, argument(group.sampled.ref))
        judge.num_groups += 1
        self._judging[call.ref] = _Judging(call, judge, group)
