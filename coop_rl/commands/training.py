"""Training on a started team: the roles and the loop over them; called by `commands.train`."""

from collections.abc import Sequence
from dataclasses import dataclass

from coop_rl.algorithm.methods import AnyMethod, build_method
from coop_rl.algorithm.packing import PackShape
from coop_rl.algorithm.roles import Roles
from coop_rl.algorithm.train import train
from coop_rl.commands.checked_run import CheckedRun
from coop_rl.config import RunConfig
from coop_rl.data.model_folder import read_model_facts
from coop_rl.distributed.ray_metrics import RayMetricsSink
from coop_rl.distributed.team import Team
from coop_rl.driver.background_evaluation import BackgroundEvaluator
from coop_rl.driver.bins import split_demonstrations
from coop_rl.driver.checkpoints import TeamCheckpoints
from coop_rl.driver.demonstrations import Demonstrations
from coop_rl.driver.evaluation import Evaluator
from coop_rl.driver.fleets import Fleets
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.guards import GuardedObserver, GuardedRollouts
from coop_rl.driver.learners import TeamLearners, TeamMetaController, TeamWeights
from coop_rl.driver.profiling import ProfilingObserver
from coop_rl.driver.rollouts import TeamRollouts, TeamScaffoldRollouts, TeamShadowRollouts
from coop_rl.driver.stop import StopAtBoundary, StopRequest
from coop_rl.driver.validation import Measurements, TeamValidation
from coop_rl.errors import Interrupted, UnscoredError
from coop_rl.observability.forgetting import describe_forgetting
from coop_rl.observability.observer import RunObserver
from coop_rl.observability.trackers import Trackers
from coop_rl.tracing.stages import Stages


@dataclass(frozen=True, slots=True)
class Session:
    """What stands between the loop and a started team."""

    method: AnyMethod
    roles: Roles
    generation: TeamGeneration
    shadow_generation: TeamGeneration
    observer: RunObserver
    checkpoints: TeamCheckpoints
    evaluation: Evaluator
    background: BackgroundEvaluator
    """Idle where training's own rollout actors evaluate."""

    @classmethod
    def build(cls, run: CheckedRun, team: Team, stop: StopRequest, trackers: Trackers) -> "Session":
        """Put the roles on top of a started team."""
        config, data, console = run.config, run.data, run.console
        method, stages = build_method(config), Stages()
        warn, held_out = console.warn, run.sets[0].prompts
        fleets = Fleets.build(
            config,
            team,
            held_out,
            stages,
            milestone=console.milestone,
            warn=warn,
            note=lambda: run.directory.note_actors(team.places),
        )
        joint, shadow, beside = fleets.generations(config, stop, stages)
        shadow_rollouts = TeamShadowRollouts(config, fleets.shadow, shadow, stages)
        checkpoints = TeamCheckpoints(
            config, team, run.store, run.start.checkpoint, stop, stages, warn, run.mirror
        )
        on_cluster = config.placement.address is not None
        live = {"show": RayMetricsSink(config.run.name).write} if on_cluster else {}
        observer = RunObserver(
            config, run.directory, console, stages, trackers=trackers, decode=data.decode, **live
        )
        evaluation = Evaluator(config, run.sets, joint.run, stages, run.directory.evaluations)
        background = BackgroundEvaluator(
            config,
            evaluation,
            beside,
            fleets.evaluation.publish,
            observer.record_background,
            console.milestone,
            stages,
        )
        validation = TeamValidation(
            config, team, data.validation, held_out, joint.run, shadow_rollouts, stages
        )
        rollouts = TeamRollouts(config, joint, data.prompts, method.estimator, stages, data.decode)
        profiling = ProfilingObserver(config, observer, team, run.directory, console)
        roles = Roles(
            rollouts=GuardedRollouts(rollouts, run.directory.path),
            shadow_rollouts=shadow_rollouts,
            scaffold_rollouts=TeamScaffoldRollouts(config, team, fleets.policy, joint, stages),
            demonstrations=Demonstrations(
                config,
                split_demonstrations(
                    config, data, team, joint, run.directory.difficulty, console.milestone
                ),
            ),
            learners=TeamLearners(config, team, stages),
            meta_controller=TeamMetaController(config, team, stages),
            weights=TeamWeights(joint, fleets.policy),
            checkpoints=checkpoints,
            evaluation=Measurements(
                (background if team.evaluation_rollouts else evaluation, validation)
            ),
            observer=GuardedObserver(profiling, run.directory.path, warn),
        )
        return cls(method, roles, joint, shadow, observer, checkpoints, evaluation, background)

    def train(self, run: CheckedRun, stop: StopRequest) -> None:
        """Run the loop, then wait for an evaluation beside it, unless the user insists.

        Raises:
            UnscoredError: Most of a step could not be scored; what was trained before is saved.
            Interrupted: The user stopped it after a checkpoint.
        """
        try:
            self._run_loop(run.config, stop)
            self.checkpoints.close(run.console.milestone)
        except Interrupted:
            self.background.finish()
            self.checkpoints.close(run.console.milestone)
            raise
        finally:
            self.observer.close()

    def _run_loop(self, config: RunConfig, stop: StopRequest) -> None:
        """Run the loop; a stop that broke off a generation is saved."""
        try:
            with (
                self.generation.serving(),
                self.shadow_generation.serving(),
                self.background.serving(),
            ):
                shape = PackShape.from_config(config, read_model_facts(config.model).hidden_size)
                stop.begin_training()
                train(config.run.num_steps, self.method, shape, self.roles)
        except StopAtBoundary:
            self.checkpoints.save_and_stop()
        except UnscoredError as error:
            saved = self.checkpoints.save_before_failing()
            raise UnscoredError(f"{error}; {saved}") from None

    def forgetting(self) -> Sequence[str]:
        """Say where the reward fell and did not come back."""
        return describe_forgetting(self.observer.forgetting)
