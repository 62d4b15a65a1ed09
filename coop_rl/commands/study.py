"""`coop-rl study`: a declared grid to runs, tables and a page; goes on where it stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from coop_rl.commands.study_runs import Batch
from coop_rl.config import RunConfig
from coop_rl.errors import DataError, Interrupted, RunError, UserError
from coop_rl.files import write_text
from coop_rl.report.arms import Arm
from coop_rl.report.content import content_of
from coop_rl.report.page import write_page
from coop_rl.study.archive import read_archive, read_exported, write_archive
from coop_rl.study.findings import Findings, find
from coop_rl.study.grid import Grid, read_grid
from coop_rl.study.planned import PlannedRun, Study, read_study
from coop_rl.study.runs import Progress, State, StudyRun, choose, median_seconds
from coop_rl.study.tables import files_of, show, tables_of

Say = Callable[[str], object]
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What the command was asked for."""

    grid: Path
    folder: Path | None = None
    """Where runs lie; None: `<run.dir>/<the grid's name>`."""
    is_dry: bool = False
    """Whether to show what it would take, and start nothing."""
    is_table_only: bool = False
    """Whether to make tables of what has finished, and start nothing."""
    archive: Path | None = None
    """Where the figures come from instead of run folders; nothing is started."""
    export: Path | None = None
    """Where the raw figures go; runs that it holds already are not run again."""
    num_parallel: int = 1
    budget_hours: float | None = None
    is_json: bool = False


def run_study(request: StudyRequest, say: Say, note: Say) -> None:
    """Do what was asked.

    Args:
        request: That.
        say: Gets the findings.
        note: Gets how it goes.

    Raises:
        UserError: The grid is wrong, or a run's folder holds another run; nothing was started.
        RunError: Runs failed; the others were made, and the tables are written.
        Interrupted: The user stopped it; the same command goes on.
    """
    asked = [request.is_dry, request.is_table_only, request.archive is not None]
    if sum(asked) > 1:
        raise UserError("--dry-run, --table-only and --from each start nothing: give one of them")
    if request.archive is not None:
        if request.export:
            raise UserError("--export writes what run folders hold; give it without --from")
        if request.folder:
            raise UserError("--study-dir is where run folders lie; give it without --from")
        grid = read_grid(request.grid)
        set_name, runs = read_archive(request.archive, grid)
        _tell(request, grid, find(grid, set_name, runs), say)
        return
    study = read_study(request.grid, request.folder)
    progress = Progress(read_exported(study, request.export))
    if not request.is_table_only:
        note(_outlook(study, progress, request.num_parallel))
    if request.is_dry:
        return
    failed: list[str] = []
    try:
        if not request.is_table_only:
            failed = _train(study, progress, request, note)
    finally:
        _conclude(study, progress, request, say)
    if failed:
        raise RunError(
            f"{len(failed)} runs failed: {', '.join(failed)}; the same command tries them again"
        )


def _train(study: Study, progress: Progress, request: StudyRequest, note: Say) -> list[str]:
    """Train what is missing, the trials first; returns the names of the runs that failed."""
    budget_s = None if request.budget_hours is None else request.budget_hours * HOUR_S
    batch = Batch(request.num_parallel, budget_s, note)
    trials = study.trial_runs()
    chosen = choose(study, progress.finished(trials))
    _require_arms(progress.missing([*trials, *study.runs(chosen)]))
    try:
        is_whole = batch.train(progress.missing(trials))
        chosen = choose(study, progress.finished(trials))
        is_whole = is_whole and batch.train(progress.missing(study.runs(chosen)))
    except Interrupted:
        raise Interrupted(
            "the runs under way have stopped; run the same command to go on"
        ) from None
    if not is_whole:
        note(f"stopped after {request.budget_hours:g} hours; run the same command to go on")
    return batch.failed


def _require_arms(runs: Sequence[PlannedRun]) -> None:
    """Go through what `train` checks, for one run of every arm and trial.

    Raises:
        UserError: `train` would refuse it; the arm is named.
    """
    from coop_rl.commands.checks import Door  # heavy: ray, transformers

    for run in {(run.arm, run.trial): run for run in reversed(runs)}.values():
        try:
            Door(run.config, run.folder).require_all()
        except UserError as error:
            raise UserError(f"{run.name}: {error}") from None


def _outlook(study: Study, progress: Progress, num_parallel: int) -> str:
    """Say how many runs there are, which are done, and how long the others may take."""
    trials = study.trial_runs()
    finished = progress.finished(trials)
    chosen = choose(study, finished)
    runs = [*trials, *study.runs(chosen)]
    states: dict[Path, State] = {run.folder: progress.state_of(run) for run in runs}
    num_later = sum(arm not in chosen for arm in study.trials) * len(study.grid.seeds)
    total = len(states) + num_later
    num_done = sum(state == "done" for state in states.values())
    finished += progress.finished(study.runs(chosen))
    lines = [
        f"{study.grid.question}",
        f"{study.path}: {len(study.configs)} arms x {len(study.grid.seeds)} seeds"
        + (f", {len(trials)} trials before" if trials else "")
        + f": {total} runs in {study.folder}",
    ]
    others = {
        state: [n for n, s in states.items() if s == state] for state in ("half-way", "failed")
    }
    counts = [f"{num_done} done", *(f"{len(n)} {state}" for state, n in others.items() if n)]
    lines.append(", ".join([*counts, f"{total - num_done} to run"]))
    if missing := progress.missing(runs):
        arms = [run.arm for run in missing] + [
            arm for arm in study.trials if arm not in chosen for _ in study.grid.seeds
        ]
        own = [run for run in finished if run.trial is None] or finished
        lines.append(_estimate(study, arms, median_seconds(own), num_parallel))
    return "\n".join(lines)


def _estimate(
    study: Study, arms: Sequence[str], measured: Mapping[str, float], num_parallel: int
) -> str:
    """Say how many hours runs of these arms take."""
    at_once = f", {num_parallel} at a time" if num_parallel > 1 else ""
    if measured:
        usual = median(measured.values())
        hours = sum(measured.get(arm, usual) for arm in arms) / HOUR_S / num_parallel
        return f"about {hours:.1f} hours{at_once}, by the median of the runs that are done"
    planned = {arm: _planned_s(study.configs[arm]) for arm in dict.fromkeys(arms)}
    if any(seconds is None for seconds in planned.values()):
        return "how long they take is not known before the first one is done"
    hours = sum(planned[arm] or 0.0 for arm in arms) / HOUR_S / num_parallel
    return (
        f"about {hours:.1f} hours{at_once} by the assumptions of coop-rl plan, start-up left out; "
        "the first runs will tell"
    )


def _planned_s(config: RunConfig) -> float | None:
    """Return a run's seconds as `coop-rl plan` has them; None: its model's sizes are not known."""
    from coop_rl.commands.plan import device_of  # heavy: transformers
    from coop_rl.planning.cost import run_s, step_cost
    from coop_rl.planning.devices import device_named
    from coop_rl.planning.shape import shape_of

    try:
        cost = step_cost(config, shape_of(config.model.path), device_named(device_of(config)))
    except UserError:
        return None
    return run_s(config, cost)


def _conclude(study: Study, progress: Progress, request: StudyRequest, say: Say) -> None:
    """Write tables and page of the runs that have finished, and the archive if asked for."""
    trials = progress.finished(study.trial_runs())
    runs = [*trials, *progress.finished(study.runs(choose(study, trials)))]
    if not runs:
        if request.is_table_only:
            raise DataError(f"no run of {study.path} has finished in {study.folder}")
        return
    found = find(study.grid, study.primary_set, runs)
    study.folder.mkdir(parents=True, exist_ok=True)
    _write(study.folder, study.grid, found)
    page = write_page(_page_content(study.grid, found, runs), study.folder / "report.html")
    if request.export:
        write_archive(study, runs, request.export)
        _write(request.export, study.grid, found)
    _tell(request, study.grid, found, say)
    if not request.is_json:
        say(f"tables {study.folder / 'tables.md'}, {study.folder / 'tables.json'}; report {page}")


def _page_content(grid: Grid, found: Findings, runs: Sequence[StudyRun]) -> dict[str, object]:
    own = [run for run in runs if run.trial is None] or runs
    arms = [Arm(a, tuple(run for run in own if run.arm == a)) for a in grid.arms]
    return content_of(own, arms=[arm for arm in arms if arm.runs]) | {
        "title": grid.question,
        "tables": [asdict(table) for table in tables_of(grid, found)],
    }


def _write(folder: Path, grid: Grid, found: Findings) -> None:
    for name, text in files_of(grid, found).items():
        write_text(folder / name, text)


def _tell(request: StudyRequest, grid: Grid, found: Findings, say: Say) -> None:
    if request.is_json:
        say(json.dumps(asdict(found), indent=2))
    else:
        show(grid, found)
