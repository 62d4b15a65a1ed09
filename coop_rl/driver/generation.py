"""Sampling and scoring on a set of rollout actors, in the background of whatever the driver does.

    submit --> router --> rollout actor --> reward actor --> on_done
                 ^ waits while weights change, unless updates are in flight

Each group goes rollout actor -> reward actor directly. `calls` serves this in every wait, so
generation goes on while learners train. Called by `rollouts`, `evaluation`
and `learners.TeamWeights`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from coop_rl.config.schema import ServingConfig
from coop_rl.distributed.calls import Call, in_background, open_result, wait_until
from coop_rl.distributed.team import Member
from coop_rl.driver.router import Router, Work
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import RunError
from coop_rl.rollout.capacity import sequences_at_once
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings, ScoredGroup

OnStart = Callable[[PolicyVersion], None]
"""Gets the version an engine serves when it takes a group on."""
OnDone = Callable[[ScoredGroup, str], None]
"""Gets the scored group and the name of its sampler; may submit more, must not wait."""


@dataclass(slots=True, eq=False)
class _Group:
    """A group from its submission to its score."""

    prompt: Prompt
    sampling: SamplingSettings
    on_start: OnStart
    on_done: OnDone


class Generation:
    """Groups under way on rollout actors, with limits, stoppable between steps."""

    def __init__(
        self,
        config: ServingConfig,
        members: Sequence[Member],
        reward: Member,
        stop: StopRequest,
        on_group: Callable[[], None] | None = None,
        stages: Stages | None = None,
    ) -> None:
        """Sample on `members`, judge with `reward`; `on_group` is called after each sampled one."""
        self._members = members
        self._reward = reward
        self._stop = stop
        self._timeout_s = config.placement.call_timeout_s
        self._on_group = on_group
        self._stages = stages or Stages()
        self._may_change_in_flight = config.rollout.in_flight_updates
        self._router: Router[_Group] = Router(max(1, len(members)), sequences_at_once(config))
        self._generating: dict[Any, tuple[Call, int, Work[_Group]]] = {}
        self._scoring: dict[Any, tuple[Call, Call, _Group]] = {}
        self._num_events = 0
        self._is_paused = False
        self._owed: tuple[PolicyVersion, Callable[[], None]] | None = None
        self._version = PolicyVersion(0, 0)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Let groups advance in every wait of the driver, whatever it waits for."""
        with in_background(self):
            yield

    def run(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> Sequence[ScoredGroup]:
        """Return one scored group per prompt, in order, all sampled at `version`.

        Raises:
            VersionError: A rollout actor sampled with other weights.
        """
        done: dict[int, ScoredGroup] = {}

        def accept(index: int, group: ScoredGroup, sampler: str) -> None:
            group.require_version(version, sampler)
            done[index] = group

        self.settle()
        for index, prompt in enumerate(prompts):
            self.submit(prompt, sampling, lambda _version: None, partial(accept, index))
        self.wait_until(lambda: len(done) == len(prompts))
        return [done[index] for index in range(len(prompts))]

    def submit(
        self, prompt: Prompt, sampling: SamplingSettings, on_start: OnStart, on_done: OnDone
    ) -> None:
        """Sample and score a group, as soon as an engine has room."""
        num_tokens = len(prompt.token_ids) + sampling.num_samples * sampling.max_tokens
        group = _Group(prompt, sampling, on_start, on_done)
        self._router.add(Work(group, sampling.num_samples, num_tokens))
        self._start()

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait, at a step boundary, until enough groups are done.

        Raises:
            ActorLostError: An actor died, or no group came on within `placement.call_timeout_s`.
            StopAtBoundary: The user asked to stop.
        """
        with self._stop.at_boundary():
            self._wait_until(is_done)

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
                self._wait_until(lambda: not self._generating)
        send()
        self._version, self._is_paused = version, False
        self._start()

    def refs(self) -> Sequence[Any]:
        """Return what is under way; for `calls`."""
        return [*self._generating, *self._scoring]

    def take(self, ref: Any) -> None:
        """Take in a generated or scored group; for `calls`."""
        if ref in self._generating:
            # What was generated goes to the reward actor and is not fetched here; if it failed,
            # so does its scoring.
            self._accept(ref, None)
            return
        scoring, generating, _ = self._scoring[ref]
        try:
            group = open_result(scoring, [])
        except RunError:
            open_result(generating, [])  # names the rollout actor where that is the cause
            raise
        self._accept(ref, group)

    def _accept(self, ref: Any, result: Any) -> None:
        self._num_events += 1
        if ref in self._generating:
            call, engine, work = self._generating.pop(ref)
            self._router.finish(engine, work)
            # Not earlier: an actor that runs calls in order would wait for the slowest group.
            scoring = self._reward.call("score", "score", call.ref)
            self._scoring[scoring.ref] = scoring, call, work.item
            self._start()
            if self._on_group:
                self._on_group()
            return
        _, generating, group = self._scoring.pop(ref)
        group.on_done(result, generating.actor)

    def _start(self) -> None:
        """Give waiting groups to engines that have room."""
        if self._is_paused:
            return
        for engine, work in self._router.start():
            member, group = self._members[engine], work.item
            call = member.call("generate", "generate_group", group.prompt, group.sampling)
            self._generating[call.ref] = call, engine, work
            group.on_start(self._version)

    def _wait_until(self, is_done: Callable[[], bool]) -> None:
        with in_background(self):
            wait_until(is_done, self._timeout_s, self._under_way, lambda: self._num_events)

    def _under_way(self) -> list[Call]:
        generating = [entry[0] for entry in self._generating.values()]
        return generating + [entry[0] for entry in self._scoring.values()]
