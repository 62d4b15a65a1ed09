"""`coop-rl train`: check everything, start the actors, run the loop, sum up, leave nothing behind.

    config --_check--> CheckedRun --_start--> Team --Session.build, .train--> summary

`commands.supervise` calls it, and calls it again after a loss (docs/recovery.md).
Order matters: all input is checked before the run directory is made, and that before Ray starts.
Until then nothing here imports torch; what the loop needs is imported while the actors start.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from coop_rl.commands.allowed import Allowed
from coop_rl.commands.checked_run import CheckedRun
from coop_rl.commands.checks import Door
from coop_rl.commands.supervise import Restart
from coop_rl.config import RunConfig, derive_sizes
from coop_rl.distributed.build import team_of
from coop_rl.distributed.cluster import ray_session
from coop_rl.distributed.team import Team
from coop_rl.distributed.watch import watching
from coop_rl.driver.checkpoint_mirror import CheckpointMirror
from coop_rl.driver.checkpoint_store import stored_progress
from coop_rl.driver.stop import StopRequest
from coop_rl.observability.console import RunConsole
from coop_rl.observability.json_console import JsonConsole
from coop_rl.observability.run_directory import RunDirectory
from coop_rl.observability.trackers import Trackers
from coop_rl.report.at_end import conclude


def run_training(
    config: RunConfig,
    run_dir: Path | None,
    resume: str,
    allowed: Sequence[Allowed] = (),
    *,
    is_quiet: bool = False,
    is_json: bool = False,
    restart: Restart | None = None,
) -> Path:
    """Run one training job from input checks to summary; returns the run directory.

    Args:
        config: The run.
        run_dir: Its directory; None: `<run.dir>/<run.name>`.
        resume: What `--resume` was given.
        allowed: What a resume may find changed.
        is_quiet: Whether to print evaluations and the summary alone.
        is_json: Whether to print JSON objects instead.
        restart: What the attempt before lost; said in place of the plan.

    Raises:
        UserError: The input is wrong; nothing was started.
        RunError: The run failed; the text names the actor.
        Interrupted: The user stopped it after a checkpoint.
    """
    door = Door(config, run_dir, resume, allowed, is_restart=restart is not None)
    run = _check(door, JsonConsole() if is_json else RunConsole(is_quiet=is_quiet))
    sizes, stop = derive_sizes(config), StopRequest()
    console, directory, checkpoint = run.console, run.directory, run.start.checkpoint
    step = stored_progress(checkpoint).next_step if checkpoint else 0
    report: Callable[[str], None] = console.milestone
    if restart:
        console.warn(restart.line(step))
        report = _say_nothing
    else:
        console.notes(door.warnings)
        console.show_plan(config, sizes, directory.path, checkpoint)
    console.notes([*run.start.notes, *directory.unreadable_rows()])
    console.dropped(() if restart else run.data.dropped)
    with directory.running() as status:
        status.goes_on_from(step)
        started = time.monotonic()
        trackers = Trackers.start(config, directory.path, console.line)
        with ray_session(config.placement, sizes, config.run.name), stop.listening():
            with (
                team_of(config, directory.logs, report) as team,
                status.ending(),
                _watching(run, team),
            ):
                _start(run, team, report)
                from coop_rl.commands.training import Session

                session = Session.build(run, team, stop, trackers)
                session.train(run, stop)
            console.notes(session.forgetting())
            comparisons = session.evaluation.comparisons()
            console.summary(directory.path, comparisons, time.monotonic() - started)
    console.conclude(conclude(directory.path))
    return directory.path


def _check(door: Door, console: RunConsole) -> CheckedRun:
    """Check all input, then make or reopen the run directory."""
    door.require_all()
    directory = RunDirectory.open(door.config, door.run_dir)
    directory.note_inputs(door.inputs)
    door.fetch(directory.checkpoints, console.milestone)
    keep, mirror = door.config.checkpoint.keep, None
    if door.target:
        mirror = CheckpointMirror(door.target, door.store, keep)
    return CheckedRun(
        door.config, door.data, door.sets, directory, door.store, door.start, console, mirror
    )


def _watching(run: CheckedRun, team: Team) -> AbstractContextManager[None]:
    """Look for hangs in every wait inside, and let everybody see who answers."""

    def note(waits: Mapping[str, Any]) -> None:
        run.directory.note_waiting(waits)
        run.console.health(waits)

    return watching(run.config.recovery, team, run.console.warn, run.directory.logs, note)


def _start(run: CheckedRun, team: Team, report: Callable[[str], None]) -> None:
    """Bring the actors up, and note where each one runs."""
    config = run.config
    report("starting actors")
    team.start(
        config.placement.startup_timeout_s,
        config.sync.timeout_s,
        run.data.sources,
        report,
        # What the loop needs imports torch, which takes seconds.
        meanwhile=partial(import_module, "coop_rl.commands.training"),
    )
    run.directory.note_actors(team.places)


def _say_nothing(_: str) -> None:
    """Let a restart be one line."""
