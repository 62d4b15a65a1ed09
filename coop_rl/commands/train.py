"""`coop-rl train`: check everything, start the actors, run the loop, sum up, leave nothing behind.

    config --_check--> CheckedRun --_start--> Team --_Session.build--> roles --_train--> summary

Order matters: all input is checked before the run directory is made, and that before Ray starts.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coop_rl.algorithm.methods import AnyMethod, build_method
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
from coop_rl.driver.generation import TeamGeneration
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


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run whose input was checked and whose directory was made; nothing was started."""

    config: RunConfig
    data: RunData
    sets: Sequence[EvaluationSet]
    directory: RunDirectory
    store: CheckpointStore
    resume_from: Path | None
    """The checkpoint to go on from, verified; None: the run begins anew."""
    console: RunConsole


def run_training(config: RunConfig, run_dir: Path | None, resume: str) -> None:
    """Run one training job from input checks to summary.

    Raises:
        UserError: The input is wrong; nothing was started.
        RunError: The run failed; the text names the actor.
        Interrupted: The user stopped it after a checkpoint.
    """
    run, sizes, stop = _check(config, run_dir, resume), derive_sizes(config), StopRequest()
    console, directory = run.console, run.directory
    console.show_plan(config, sizes, directory.path, run.resume_from)
    console.dropped(run.data.dropped)
    with directory.running():
        started = time.monotonic()
        with ray_session(config.placement, sizes, config.run.name), stop.listening():
            with team_of(config, directory.logs, console.milestone) as team:
                _start(run, team)
                session = _Session.build(run, team, stop)
                _train(run, session, stop)
            console.notes(describe_forgetting(session.observer.forgetting))
            comparisons = session.evaluation.comparisons()
            console.summary(directory.path, comparisons, time.monotonic() - started)


def _check(config: RunConfig, run_dir: Path | None, resume: str) -> CheckedRun:
    """Check all input, then make or reopen the run directory."""
    console = RunConsole()
    if config.placement.address is None:
        preflight_local(derive_sizes(config))
    else:
        named_environment(config.placement.environment)
    check_functions(config.reward)
    data = load_run_data(config)
    sets = run_sets(config, data.held_out)
    _require_kept(run_dir or Path(config.run.dir))
    directory = RunDirectory.open(config, run_dir)
    store = CheckpointStore(directory.checkpoints, config.checkpoint.keep)
    resume_from = _resume_point(config, store, resume)
    return CheckedRun(config, data, sets, directory, store, resume_from, console)


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


def _start(run: CheckedRun, team: Team) -> None:
    """Bring the actors up, and note where each one runs."""
    config, console = run.config, run.console
    console.milestone("starting actors")
    run.directory.note_actors(
        team.start(
            config.placement.startup_timeout_s,
            config.sync.timeout_s,
            run.data.sources,
            console.milestone,
        )
    )


def _train(run: CheckedRun, session: "_Session", stop: StopRequest) -> None:
    """Run the loop; a stop that broke off a generation is saved.

    Raises:
        Interrupted: The user stopped it after a checkpoint.
    """
    config = run.config
    try:
        with session.generation.serving():
            shape = PackShape.from_config(config, read_model_facts(config.model).hidden_size)
            stop.begin_training()
            train(config.run.num_steps, session.method, shape, session.roles)
    except StopAtBoundary:
        session.checkpoints.save_and_stop()
    finally:
        session.observer.close()


@dataclass(frozen=True, slots=True)
class _Session:
    """What stands between the loop and a started team."""

    method: AnyMethod
    roles: Roles
    generation: TeamGeneration
    observer: RunObserver
    checkpoints: TeamCheckpoints
    evaluation: Evaluator

    @classmethod
    def build(cls, run: CheckedRun, team: Team, stop: StopRequest) -> "_Session":
        """Put the roles on top of a started team."""
        config, data, console = run.config, run.data, run.console
        method, stages = build_method(config), Stages()
        joint = TeamGeneration(config, team.rollouts, team.reward, stop, stages=stages)
        shadow = TeamGeneration(config, team.shadow_rollouts, team.reward, stop)
        shadow_rollouts = TeamShadowRollouts(config, team, shadow, stages)
        checkpoints = TeamCheckpoints(config, team, run.store, run.resume_from, stop, stages)
        on_cluster = config.placement.address is not None
        live = (RayMetricsSink(config.run.name).write,) if on_cluster else ()
        observer = RunObserver(config, run.directory, console, stages, *live)
        evaluation = Evaluator(config, run.sets, joint.run, stages, run.directory.evaluations)
        held_out = run.sets[0].prompts
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
            observer=ProfilingObserver(config, observer, team, run.directory, console),
        )
        return cls(method, roles, joint, observer, checkpoints, evaluation)
