"""Groups on their way through rollout actors and the reward actor.

    start --> Router --> rollout actor --> reward actor --> done(group)

Each group goes from the rollout actor to the reward actor directly. `advance` moves everything on
and never waits; the waits below call it, and so does every other wait of the controller
(`calls.breaking_off`), so that engines get new work while the learners train.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from coop_rl.config.schema import ServingConfig
from coop_rl.distributed.calls import POLL_S, Call, break_off, result_of
from coop_rl.distributed.checkpoints import StopRequest
from coop_rl.distributed.team import Member
from coop_rl.errors import ActorLostError
from coop_rl.rollout.router import Router
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings, ScoredGroup

ROOM = 1.25
"""Sequences an engine holds, as a multiple of those it runs at once: it must not run dry before the
controller looks again."""


@dataclass(frozen=True, slots=True)
class _Job:
    prompt: Prompt
    sampling: SamplingSettings
    done: Callable[[ScoredGroup], None]

    @property
    def num_tokens(self) -> int:
        """At most."""
        return len(self.prompt.token_ids) + self.sampling.num_samples * self.sampling.max_tokens


class Generation:
    """Sampling and scoring on a set of rollout actors, with limits, stoppable between steps."""

    def __init__(
        self,
        config: ServingConfig,
        members: Sequence[Member],
        reward: Member,
        stop: StopRequest,
        on_group: Callable[[], None] | None = None,
    ) -> None:
        """Sample on `members`, judge with `reward`; `on_group` is called after each sampled one."""
        self._members = members
        self._reward = reward
        self._stop = stop
        self._timeout_s = config.placement.call_timeout_s
        self._on_group = on_group
        self._router: Router[_Job] = Router(
            len(members), room=int(ROOM * config.rollout.max_num_seqs)
        )
        self._generating: dict[Any, tuple[Call, _Job, int]] = {}
        self._scoring: dict[Any, tuple[Call, _Job]] = {}
        self._last_progress = time.monotonic()

    @property
    def num_under_way(self) -> int:
        """Groups started and not done."""
        return self._router.num_queued + len(self._scoring)

    def start(
        self,
        prompt: Prompt,
        sampling: SamplingSettings,
        done: Callable[[ScoredGroup], None],
        *,
        is_urgent: bool = False,
    ) -> None:
        """Start a group; `done` gets it during a later `advance`.

        Args:
            prompt: What to sample for.
            sampling: How.
            done: Called once; may start others.
            is_urgent: Whether it goes before those that are not.
        """
        if self.num_under_way == 0:
            self._last_progress = time.monotonic()
        job = _Job(prompt, sampling, done)
        self._router.add(job, sampling.num_samples, job.num_tokens, is_urgent=is_urgent)
        self._assign()

    def advance(self, wait_s: float = 0.0) -> None:
        """Take what has finished, and give engines with room their next groups.

        Args:
            wait_s: How long to wait for something to finish.

        Raises:
            ActorLostError: An actor died, or nothing finished within the limit.
        """
        refs = [*self._generating, *self._scoring]
        if not refs:
            return
        if wait_s:
            ray.wait(refs, num_returns=1, timeout=wait_s)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0.0)
        for ref in ready:
            self._take(ref)
        self._assign()
        if ready:
            self._last_progress = time.monotonic()
        elif time.monotonic() - self._last_progress > self._timeout_s:
            waiting = ", ".join(sorted({f"{c.actor} ({c.phase})" for c in self._calls()}))
            raise ActorLostError(f"no answer within {self._timeout_s:g} s from {waiting}")

    def wait(self) -> None:
        """Wait a little for something to finish; the learners must stand at a step's boundary.

        Raises:
            StopAtBoundary: The user asked the run to stop.
        """
        with self._stop.at_boundary():
            break_off()
            self.advance(POLL_S)

    def settle(self) -> None:
        """Wait until nothing is under way, or the user asked the run to stop."""
        while self.num_under_way and not self._stop.is_set:
            self.advance(POLL_S)

    def run(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> Sequence[ScoredGroup]:
        """Return one scored group per prompt, in order, all sampled at `version`.

        Raises:
            VersionError: A rollout actor sampled with other weights.
        """
        groups: dict[int, ScoredGroup] = {}
        for number, prompt in enumerate(prompts):

            def keep(group: ScoredGroup, number: int = number) -> None:
                group.require_version(version, "a rollout actor")
                groups[number] = group

            self.start(prompt, sampling, keep, is_urgent=True)
        while len(groups) < len(prompts):
            self.wait()
        return [groups[number] for number in range(len(prompts))]

    def _assign(self) -> None:
        """Give jobs to engines with room."""
        while (assigned := self._router.assign()) is not None:
            job, engine = assigned
            call = self._members[engine].call(
                "generate", "generate_group", job.prompt, job.sampling
            )
            self._generating[call.ref] = call, job, engine
            scoring = self._reward.call("score", "score", call.ref)
            self._scoring[scoring.ref] = scoring, job

    def _calls(self) -> list[Call]:
        """Return what is under way on actors."""
        generating = [call for call, _, _ in self._generating.values()]
        return generating + [call for call, _ in self._scoring.values()]

    def _take(self, ref: Any) -> None:
        if ref in self._generating:
            sampled, job, engine = self._generating.pop(ref)
            result_of(sampled, self._calls())
            self._router.done(engine, job.sampling.num_samples, job.num_tokens)
            if self._on_group:
                self._on_group()
            return
        call, job = self._scoring.pop(ref)
        job.done(result_of(call, self._calls()))
