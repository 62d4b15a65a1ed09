"""The fleets of a training run and what they share: whom they replace, and how they are checked.

    joint learner ---> policy          samples for training, and evaluates where nobody else does
    shadow ----------> shadow          only where the shadow samples for itself
    joint learner ---> evaluation      only where an evaluation goes on beside training

Called by `commands.training`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coop_rl.config import RunConfig
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.driver.canary import Canary
from coop_rl.driver.elastic import Elastic
from coop_rl.driver.fleet import SyncedFleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.poison import Poison
from coop_rl.driver.replacement import Replacements
from coop_rl.driver.scoring import Scoring
from coop_rl.driver.stop import StopRequest
from coop_rl.tracing.stages import Stages
from coop_rl.types import Prompt


@dataclass(frozen=True, slots=True)
class Fleets:
    """Everybody who samples or judges."""

    policy: SyncedFleet
    shadow: SyncedFleet
    evaluation: SyncedFleet
    scoring: Scoring
    poison: Poison

    @classmethod
    def build(
        cls,
        config: RunConfig,
        team: Team,
        held_out: Sequence[Prompt],
        stages: Stages,
        *,
        milestone: Callable[[str], None],
        warn: Callable[[str], None],
        note: Callable[[], object],
    ) -> "Fleets":
        """Put fleets on top of a started team.

        Args:
            config: The run.
            team: Started.
            held_out: Prompts, the first of which the canaries sample on.
            stages: Timers of syncs to the policy's engines, and counts of replaced actors.
            milestone: Gets a line after each first check of engines.
            warn: Gets a line at every loss and return.
            note: Called when somebody has taken a lost one's place in the team.
        """
        engines = Replacements.of_rollouts(config, team, stages, warn, note)
        rewards = Replacements.of_rewards(config, team, stages, warn, note)
        whose = ((team.joint, stages), (team.shadow, Stages()), (team.joint, Stages()))
        checks = [Canary(config, ranks, held_out, timers, milestone) for ranks, timers in whose]
        most = config.rollout.max_actors
        return cls(
            policy=SyncedFleet(
                config,
                team.rollouts,
                team.joint,
                engines,
                checks[0].check_when_due,
                stages=stages,
                elastic=Elastic(team, team.room, most, milestone, note) if team.room else None,
            ),
            shadow=SyncedFleet(
                config, team.shadow_rollouts, team.shadow, engines, checks[1].check_new
            ),
            evaluation=SyncedFleet(
                config,
                team.evaluation_rollouts,
                team.joint,
                engines,
                checks[2].check_all,
                connect=LearnerActor.connect_evaluation,
                publish=LearnerActor.publish_evaluation,
                # The learners have gone on to other weights meanwhile.
                may_resend=False,
            ),
            scoring=Scoring(team.rewards, rewards),
            poison=Poison(stages, warn),
        )

    def generations(
        self, config: RunConfig, stop: StopRequest, stages: Stages
    ) -> tuple[TeamGeneration, TeamGeneration, TeamGeneration]:
        """Return generation by the policy, by the shadow, and for evaluations beside training."""
        return (
            TeamGeneration(
                config, self.policy, self.scoring, stop, stages=stages, poison=self.poison
            ),
            TeamGeneration(config, self.shadow, self.scoring, stop, poison=self.poison),
            TeamGeneration(config, self.evaluation, self.scoring, stop, poison=self.poison),
        )
