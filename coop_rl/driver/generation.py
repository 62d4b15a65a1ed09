"""Sampling and scoring on a set of rollout actors, in the background of whatever the driver does.

    submit --> router --> rollout actor --> reward actor --> on_done
                 ^ waits while weights change, unless updates are in flight
                 ^ what a lost rollout actor had, with the same seeds (`driver.poison`)

A sampled group goes from the rollout actor to the reward actor directly (`driver.scoring`). Which
rollout actors there are, `driver.fleet` knows. `distributed.calls` serves this in every wait, so
generation goes on while learners train. Called by `driver.rollouts`, by
`driver.learners.TeamWeights` and, through `run`, by evaluations.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from coop_rl.config.schema import ServingConfig
from coop_rl.distributed.actors import RolloutActor
from coop_rl.distributed.calls import AnyRef, Call, breaking_off, in_background, wait_until
from coop_rl.driver.fleet import Fleet
from coop_rl.driver.poison import MOST_LOSSES, Poison, stand_in
from coop_rl.driver.router import Router, Work
from coop_rl.driver.scoring import Scoring
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import ActorLostError, ResultLostError, RunError
from coop_rl.rollout.capacity import sequences_at_once
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, RolloutGroup, SamplingSettings, ScoredGroup

OnStart = Callable[[PolicyVersion], None]
"""Gets the version an engine serves when it takes a group on."""
OnDone = Callable[[ScoredGroup, str], None]
"""Gets the scored group and the name of its sampler; may submit more, must not wait."""
OnReturn = Callable[[], None]
"""Called when a group that was started is lost with its engine; it will be started once more."""


class Generation(Protocol):
    """What training's rollouts need: groups that go on while others are waited for."""

    def settle(self) -> None:
        """Let the newest weights be served before anything more is sampled."""
        ...

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingSettings,
        on_start: OnStart,
        on_done: OnDone,
        on_return: OnReturn,
    ) -> None:
        """Sample and score a group, as soon as there is room."""
        ...

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait until enough groups are done."""
        ...


class AskedGeneration(Protocol):
    """What measurements need: groups of one version, all of a list or nothing."""

    def begin(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingSettings,
        version: PolicyVersion,
        on_all: Callable[[Sequence[ScoredGroup]], None],
    ) -> None:
        """Sample and score a group for each prompt in the background, for `on_all`."""
        ...

    def wait_through(self, is_done: Callable[[], bool]) -> None:
        """Wait, though a stop was asked for, until enough is done."""
        ...


@dataclass(slots=True, eq=False)
class _Group:
    """A group that was submitted, and who waits for it."""

    prompt: Prompt
    sampling: SamplingSettings
    on_start: OnStart
    on_done: OnDone
    on_return: OnReturn
    num_losses: int = 0
    """Engines that were lost while they sampled it."""


@dataclass(frozen=True, slots=True)
class _Generating:
    """A group that an engine samples."""

    call: Call[RolloutGroup]
    engine: int
    work: Work[_Group]
    number: int
    """How many groups were given to engines before."""


class TeamGeneration:
    """Groups under way on rollout actors, with limits, stoppable between steps."""

    def __init__(
        self,
        config: ServingConfig,
        fleet: Fleet,
        scoring: Scoring,
        stop: StopRequest,
        on_group: Callable[[], None] | None = None,
        stages: Stages | None = None,
        poison: Poison | None = None,
    ) -> None:
        """Sample on `fleet`, judge by `scoring`; `on_group` is called after each sampled one."""
        self._fleet = fleet
        self._scoring = scoring
        self._stop = stop
        self._timeout_s = config.placement.call_timeout_s
        self._on_group = on_group
        self._stages = stages or Stages()
        self._poison = poison or Poison()
        self._may_change_in_flight = config.rollout.in_flight_updates
        self._router: Router[_Group] = Router(fleet.serving, sequences_at_once(config))
        fleet.subscribe(self._drop, self._router.add_engine, self._router.close)
        self._generating: dict[AnyRef, _Generating] = {}
        self._num_started = 0
        self._dead_since: dict[int, int] = {}
        """By lost engine: groups of a higher number were given to it when it was dead already."""
        self._unjudged: Counter[int] = Counter()
        """By engine: calls that ended, of which is not known yet whether the engine had died."""
        self._num_events = 0
        self._is_paused = False
        self._owed: tuple[PolicyVersion, Callable[[], None]] | None = None
        self._send: Callable[[], None] | None = None
        """Sends what was sent last once more."""
        self._version = PolicyVersion(0, 0)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Let groups advance in every wait of the driver, whatever it waits for."""
        with in_background(self), breaking_off(self._fleet.look):
            yield

    def run(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> Sequence[ScoredGroup]:
        """Return one scored group per prompt, in order, all sampled at `version`.

        Raises:
            VersionError: A rollout actor sampled with other weights.
        """
        found: list[Sequence[ScoredGroup]] = []
        self.settle()
        self.begin(prompts, sampling, version, found.append)
        self.wait_until(lambda: bool(found))
        return found[0]

    def begin(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingSettings,
        version: PolicyVersion,
        on_all: Callable[[Sequence[ScoredGroup]], None],
    ) -> None:
        """Do as `run`, in the background; `on_all` gets all groups, in a wait of the driver."""
        done: dict[int, ScoredGroup] = {}

        def accept(index: int, group: ScoredGroup, sampler: str) -> None:
            group.require_version(version, sampler)
            done[index] = group
            if len(done) == len(prompts):
                on_all([done[index] for index in range(len(prompts))])

        for index, prompt in enumerate(prompts):
            self.submit(prompt, sampling, lambda _version: None, partial(accept, index))

    def submit(
        self,
        prompt: Prompt,
        sampling: SamplingSettings,
        on_start: OnStart,
        on_done: OnDone,
        on_return: OnReturn = lambda: None,
    ) -> None:
        """Sample and score a group, as soon as an engine has room."""
        num_tokens = len(prompt.context_ids) + sampling.num_samples * sampling.max_tokens
        group = _Group(prompt, sampling, on_start, on_done, on_return)
        self._router.add(Work(group, sampling.num_samples, num_tokens))
        self._start()

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait, at a step boundary, until enough groups are done.

        Raises:
            ActorLostError: An actor died, or no group came on within `placement.call_timeout_s`.
            StopAtBoundary: The user asked to stop.
        """
        with self._stop.at_boundary():
            self.wait_through(is_done)

    def wait_through(self, is_done: Callable[[], bool]) -> None:
        """Wait although a stop was asked for; a second request breaks it off.

        Who waits here stands at a step's boundary, where the learners still hold the weights that
        are served; so where all engines were lost, a new one gets them at once.
        """
        with in_background(self):
            while not is_done():
                wait_until(
                    lambda: is_done() or self._fleet.awaits_weights(),
                    self._timeout_s,
                    self._under_way,
                    lambda: self._num_events,
                )
                if not is_done():
                    assert self._send is not None, "engines wait for weights that nobody sent"
                    self._send()
                    self._start()

    def change_weights(
        self, version: PolicyVersion, send: Callable[[], None], *, is_read: bool
    ) -> None:
        """Let every group from now on be sampled at `version`.

        Args:
            version: What the engines serve after `send`.
            send: Sends the weights, and waits for that.
            is_read: False: nothing samples soon, so send only if something does (`settle`).
        """
        self._owed = version, send
        if is_read:
            self.settle()

    def settle(self) -> None:
        """Send the weights that were put off, if any.

        Groups under way are finished first and no new ones begun, so that each has one version;
        with `rollout.in_flight_updates` they go on with the new weights instead.
        """
        if self._owed is None:
            return
        (version, send), self._owed = self._owed, None
        if not self._may_change_in_flight and self._generating:
            self._is_paused = True
            with self._stages.stage("wait_generation"):
                self.wait_through(lambda: not self._generating)
        send()
        self._send = send
        self._version, self._is_paused = version, False
        self._start()

    def refs(self) -> Sequence[AnyRef]:
        """Return the calls under way, for `distributed.calls`."""
        return [*self._generating, *self._scoring.refs(), *self._fleet.refs()]

    def take(self, ref: AnyRef) -> None:
        """Take in a sampled or scored group, or a new engine, for `distributed.calls`."""
        if ref in self._generating:
            self._on_sampled(ref)
        elif ref in self._fleet.refs():
            self._num_events += 1
            self._fleet.take(ref)
        else:
            self._scoring.take(ref)

    def _on_sampled(self, ref: AnyRef) -> None:
        """Let a reward actor judge a sampled group, and its engine take on others."""
        self._num_events += 1
        ended = self._generating.pop(ref)
        self._router.finish(ended.engine, ended.work)
        self._unjudged[ended.engine] += 1
        # Not earlier: an actor that runs calls in order would wait for the slowest group.
        failed = partial(self._on_failed, ended, self._num_started)
        self._scoring.judge(ended.call, partial(self._on_scored, ended), failed)
        self._start()
        if self._on_group:
            self._on_group()

    def _on_scored(self, ended: _Generating, scored: ScoredGroup) -> None:
        """Hand a group to who submitted it."""
        self._num_events += 1
        self._unjudged[ended.engine] -= 1
        ended.work.item.on_done(scored, ended.call.actor)
        self._start()

    def _on_failed(self, ended: _Generating, num_started: int, error: RunError) -> None:
        """Sample a group again that was lost with its engine, or with the node that held it.

        `num_started` groups had been given to engines when its call ended.

        Raises:
            RunError: It failed for another reason, or the engine is not replaced.
        """
        self._num_events += 1
        self._unjudged[ended.engine] -= 1
        if not isinstance(error, ActorLostError | ResultLostError):
            raise error
        if isinstance(error, ActorLostError):
            self._dead_since.setdefault(ended.engine, num_started)
            self._blame(ended)
        ended.work.item.on_return()
        self._router.add(ended.work)
        if isinstance(error, ActorLostError):
            self._fleet.lose(ended.engine, error)
        self._start()

    def _drop(self, engine: int) -> None:
        """Forget a lost engine's calls, so that a late answer counts for nobody."""
        lost = [entry for entry in self._generating.values() if entry.engine == engine]
        self._generating = {r: e for r, e in self._generating.items() if e.engine != engine}
        self._router.remove(engine)
        for entry in lost:
            self._blame(entry)
            entry.work.item.on_return()

    def _blame(self, lost: _Generating) -> None:
        """Note that an engine was lost while it sampled a group, which may be why."""
        group = lost.work.item
        is_innocent = lost.number >= self._dead_since.get(lost.engine, self._num_started)
        if is_innocent or self._fleet.is_ending(lost.engine):
            return
        group.num_losses += 1
        lost.work.is_alone = group.num_losses == MOST_LOSSES - 1
        if group.num_losses == MOST_LOSSES:
            self._poison.set_aside(group.prompt)

    def _start(self) -> None:
        """Give waiting groups to engines that have room."""
        if self._is_paused:
            return
        for engine, work in self._router.start(lambda engine: not self._unjudged[engine]):
            group = work.item
            member = self._fleet.serving[engine]
            if group.prompt in self._poison:
                self._router.finish(engine, work)
                group.on_start(self._version)
                nothing = stand_in(group.prompt, group.sampling, self._version)
                group.on_done(nothing, member.name)
                continue
            call = member.call(RolloutActor.generate, group.prompt, group.sampling)
            self._generating[call.ref] = _Generating(call, engine, work, self._num_started)
            self._num_started += 1
            group.on_start(self._version)

    def _under_way(self) -> list[Call[object]]:
        generating = (entry.call for entry in self._generating.values())
        return [*generating, *self._scoring.calls(), *self._fleet.calls()]
