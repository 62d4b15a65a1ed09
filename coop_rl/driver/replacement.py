"""Replacing a lost actor while the run goes on: budget, lines, metrics, `actors.json`.

    lost --begin--> new actor of the same name, which its caller starts --up--> ... --back--> a line

Used by `driver.scoring` for reward actors and by `driver.fleet` for rollout actors. What cannot be
replaced leaves as the `ActorLostError` that told of it.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from coop_rl.config.recovery import RecoverySection
from coop_rl.config.schema import ServingConfig
from coop_rl.distributed.actors import Whereabouts
from coop_rl.distributed.member import Member
from coop_rl.distributed.team import Team
from coop_rl.driver.membership import Budget
from coop_rl.errors import RayLostError, RunError
from coop_rl.metric_names import RECOVERED
from coop_rl.tracing.stages import Stages

A = TypeVar("A")


class Replacements:
    """The losses of one role, and who takes the lost ones' places."""

    def __init__(
        self,
        team: Team,
        role: str,
        budget: Budget,
        section: RecoverySection,
        stages: Stages,
        report: Callable[[str], None],
        note: Callable[[], object],
    ) -> None:
        """Replace members of `team`.

        Args:
            team: All actors.
            role: `rollouts` or `reward_actors`, as the metric is called.
            budget: How many losses are borne.
            section: How long each new actor waits before it starts.
            stages: Counts replacements.
            report: Gets a line at every loss and at every return.
            note: Called once `team.places` has changed.
        """
        self._team = team
        self._role = role
        self._budget = budget
        self._section = section
        self._stages = stages
        self._report = report
        self._note = note
        self._lost_at: dict[str, float] = {}
        self.step = 0
        """Where the run is, for the budget."""

    @classmethod
    def of_rollouts(
        cls,
        config: ServingConfig,
        team: Team,
        stages: Stages,
        report: Callable[[str], None],
        note: Callable[[], object],
    ) -> "Replacements":
        """Replace rollout actors as section `recovery` says.

        Not where others share their devices: vLLM measures what is free while it starts.
        """
        section, gpus = config.recovery, config.placement.rollout.gpus
        is_alone = not config.placement.colocated and (gpus == 0 or gpus >= 1)
        limit = section.rollout_restarts if is_alone else 0
        budget = Budget("recovery.rollout_restarts", limit, section.window)
        return cls(team, "rollouts", budget, section, stages, report, note)

    @classmethod
    def of_rewards(
        cls,
        config: ServingConfig,
        team: Team,
        stages: Stages,
        report: Callable[[str], None],
        note: Callable[[], object],
    ) -> "Replacements":
        """Replace reward actors as section `recovery` says."""
        section = config.recovery
        budget = Budget("recovery.reward_restarts", section.reward_restarts, section.window)
        return cls(team, "reward_actors", budget, section, stages, report, note)

    def begin(self, lost: Member[A], error: RunError) -> tuple[Member[A], float]:
        """Put a new actor into the place of a lost one; returns how long it waits to start, too.

        It waits by itself, so that nobody waits for it.

        Raises:
            RunError: `error` itself, where this role is not replaced, or Ray itself is lost.
            BudgetSpentError: There were too many losses.
        """
        if self._budget.limit == 0 or isinstance(error, RayLostError):
            raise error
        pause_s = self._section.pause_s(self._budget.spend(self.step, str(error)))
        self._lost_at.setdefault(lost.name, time.monotonic())
        self._report(f"lost {lost.name}, which is replaced: {error}")
        return self._team.replace(lost), pause_s

    def place(self, name: str) -> Whereabouts | None:
        """Return where the actor called `name` runs, or ran."""
        return self._team.places.get(name)

    def up(self, name: str, where: Whereabouts) -> None:
        """Note where a new actor runs."""
        self._team.places[name] = where
        self._note()

    def back(self, name: str) -> bool:
        """Note that an actor does its work; returns whether in the place of a lost one."""
        if (since := self._lost_at.pop(name, None)) is None:
            return False
        self._stages.count(f"{RECOVERED}{self._role}", 1)
        self._report(f"{name} is back after {time.monotonic() - since:.1f} s")
        return True

    def left(self, name: str) -> None:
        """Note that nobody comes in the place of a lost actor."""
        self._lost_at.pop(name, None)
