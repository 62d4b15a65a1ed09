"""`coop-rl train`: check everything, start the actors, run the loop, sum up, leave nothing behind.

    config --_check--> CheckedRun --_start--> Team --Session.build, .train--> summary

Order matters: all input is checked before the run directory is made, and that before Ray starts.
Until then nothing here imports torch; what the loop needs is imported while the actors start.
"""

import time
from functools import partial
from importlib import import_module
from pathlib import Path

from coop_rl.commands.checked_run import CheckedRun
from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.paths import PACKAGES
from coop_rl.data.load import load_run_data
from coop_rl.distributed.build import team_of
from coop_rl.distributed.cluster import named_environment, preflight_local, ray_session
from coop_rl.distributed.team import Team
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress, stored_progress
from coop_rl.driver.stop import StopRequest
from coop_rl.errors import RunDirectoryError
from coop_rl.evaluation.sets import run_sets
from coop_rl.observability.console import RunConsole
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.report.at_end import conclude
from coop_rl.rewards.user import check_functions


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
                from coop_rl.commands.training import Session

                session = Session.build(run, team, stop)
                session.train(run, stop)
            console.notes(session.forgetting())
            comparisons = session.evaluation.comparisons()
            console.summary(directory.path, comparisons, time.monotonic() - started)
    console.notes(conclude(directory.path))


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
            # What the loop needs imports torch, which takes seconds.
            meanwhile=partial(import_module, "coop_rl.commands.training"),
        )
    )
