"""`coop-rl train`: check everything, start the actors, run the loop, sum up, leave nothing behind.

Order matters: all input is checked before the run directory is made, and that before Ray starts.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coop_rl.algorithm.methods import Method, build_method
from coop_rl.algorithm.packing import PackShape
from coop_rl.algorithm.roles import Roles
from coop_rl.algorithm.train import train
from coop_rl.config import RunConfig, derive_sizes
from coop_rl.data.load import RunData, load_run_data
from coop_rl.data.model_folder import read_model_facts
from coop_rl.distributed.build import team_of
from coop_rl.distributed.cluster import named_environment, preflight_local, ray_session
from coop_rl.distributed.ray_metrics import RayMetricsSink
from coop_rl.distributed.team import Team
from coop_rl.driver.canary import Canary
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress, stored_progress
from coop_rl.driver.checkpoints import TeamCheckpoints
from coop_rl.driver.demonstrations import Demonstrations
from coop_rl.driver.evaluation import Evaluator
from coop_rl.driver.generation import Generation
from coop_rl.driver.learners import TeamLearners, TeamMetaController, TeamWeights
from coop_rl.driver.profiling import ProfilingObserver
from coop_rl.driver.rollouts import TeamRollouts, TeamShadowRollouts
from coop_rl.driver.stop import StopAtBoundary, StopRequest
from coop_rl.driver.validation import Measurements, TeamValidation
from coop_rl.errors import RunDirectoryError
from coop_rl.evaluation.sets import EvaluationSet, run_sets
from coop_rl.observability.console import RunConsole
from coop_rl.observability.forgetting import describe_forgetting
from coop_rl.observability.observer import RunObserver
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.rewards.user import check_functions
from coop_rl.tracing.stages import Stages

PACKAGES = "working_dir_files"
"""The folder Ray unpacks the working directories of jobs in."""


def run_training(config: RunConfig, run_dir: Path | None, resume: str) -> None:
    """Run one training job from input checks to summary.

    Raises:
        UserError: The input is wrong; nothing was started.
        RunError: The run failed; the text names the actor.
        Interrupted: The user stopped it after a checkpoint.
    """
    console = RunConsole()
    sizes = derive_sizes(config)
    if config.placement.address is None:
        preflight_local(sizes)
    else:
        named_environment(config.placement.environment)
    check_functions(config.reward)
    data = load_run_data(config)
    sets = run_sets(config, data.held_out)
    _require_kept(run_dir or Path(config.run.dir))
    directory = RunDirectory.open(config, run_dir)
    store = CheckpointStore(directory.checkpoints, config.checkpoint.keep)
    resume_from = _resume_point(config, store, resume)
    console.show_plan(config, sizes, directory.path, resume_from)
    console.dropped(data.dropped)
    with directory.running():
        _run(config, data, sets, directory, store, resume_from, console)


def _require_kept(folder: Path) -> None:
    """Refuse a run directory inside a job's package, which Ray deletes."""
    if PACKAGES in folder.resolve().parts:
        raise RunDirectoryError(
            f"the run directory {folder} lies in the job's package, which Ray deletes; set an "
            "absolute run.dir or --run-dir on storage that all nodes share"
        )


def _resume_point(config: RunConfig, store: CheckpointStore, resume: str) -> Path | None:
    """Return the checkpoint to go on from, verified, or None to start anew."""
    if resume == "never":
        if store.complete():
            raise RunDirectoryError(
                "the run directory already holds checkpoints and --resume is never; "
                "give another --run-dir or run.name"
            )
        return None
    if resume == "auto":
        checkpoint = store.latest()
        progress = stored_progress(checkpoint) if checkpoint else None
    else:
        checkpoint = Path(resume)
        progress = read_progress(checkpoint)
    if progress and progress.next_step >= config.run.num_steps:
        raise RunDirectoryError(
            f"nothing to train: {checkpoint} already holds all {config.run.num_steps} steps; "
            "raise run.num_steps, or give another --run-dir or run.name"
        )
    return checkpoint


def _run(
    config: RunConfig,
    data: RunData,
    sets: Sequence[EvaluationSet],
    directory: RunDirectory,
    store: CheckpointStore,
    resume_from: Path | None,
    console: RunConsole,
) -> None:
    started = time.monotonic()
    stop = StopRequest()
    with ray_session(config.placement, derive_sizes(config), config.run.name), stop.listening():
        with team_of(config, directory.logs, console.milestone) as team:
            console.milestone("starting actors")
            place, sources = config.placement, data.sources
            directory.note_actors(
                team.start(
                    place.startup_timeout_s, config.sync.timeout_s, sources, console.milestone
                )
            )
            method = build_method(config)
            session = _Session.build(
                config, data, sets, directory, store, resume_from, console, team, stop, method
            )
            try:
                with session.generation.serving():
                    shape = PackShape.from_config(
                        config, read_model_facts(config.model).hidden_size
                    )
                    stop.begin_training()
                    train(config.run.num_steps, method, shape, session.roles)
            except StopAtBoundary:
                session.checkpoints.save_and_stop()
            finally:
                session.observer.close()
        console.notes(describe_forgetting(session.observer.forgetting))
        console.summary(
            directory.path, session.evaluation.comparisons(), time.monotonic() - started
        )


@dataclass(frozen=True, slots=True)
class _Session:
    """The roles, and those that are needed apart from the loop."""

    roles: Roles
    observer: RunObserver
    checkpoints: TeamCheckpoints
    evaluation: Evaluator
    generation: Generation

    @classmethod
    def build(
        cls,
        config: RunConfig,
        data: RunData,
        sets: Sequence[EvaluationSet],
        directory: RunDirectory,
        store: CheckpointStore,
        resume_from: Path | None,
        console: RunConsole,
        team: Team,
        stop: StopRequest,
        method: Method,
    ) -> "_Session":
        """Put the roles on top of a started team."""
        stages = Stages()
        joint = Generation(config, team.rollouts, team.reward, stop, stages=stages)
        shadow = Generation(config, team.shadow_rollouts, team.reward, stop)
        shadow_rollouts = TeamShadowRollouts(config, team, shadow, stages)
        checkpoints = TeamCheckpoints(config, team, store, resume_from, stop, stages)
        on_cluster = config.placement.address is not None
        live = (RayMetricsSink(config.run.name).write,) if on_cluster else ()
        observer = RunObserver(config, directory, console, stages, *live)
        evaluation = Evaluator(config, sets, joint.run, stages, directory.evaluations)
        held_out = sets[0].prompts
        validation = TeamValidation(
            config, team, data.validation, held_out, joint.run, shadow_rollouts, stages
        )
        canary = Canary(config, team, held_out, stages, console.milestone)
        roles = Roles(
            rollouts=TeamRollouts(config, joint, data.prompts, method.estimator, stages),
            shadow_rollouts=shadow_rollouts,
            demonstrations=Demonstrations(config, data.demonstrations),
            learners=TeamLearners(config, team, stages),
            meta_controller=TeamMetaController(config, team, stages),
            weights=TeamWeights(config, team, joint, canary, stages),
            checkpoints=checkpoints,
            evaluation=Measurements((evaluation, validation)),
            observer=ProfilingObserver(config, observer, team, directory, console),
        )
        return cls(roles, observer, checkpoints, evaluation, joint)
