"""The part of `coop-rl`'s command line that is about what runs left; `cli` adds it to its own."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

RunFolders = Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN...")]


def add_run_commands(app: typer.Typer) -> None:
    """Add `report`, `watch`, `compare`, `study` and `export`."""
    for command in (report, watch, compare, study, export):
        app.command()(command)


def report(
    runs: RunFolders,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file, or a folder for report.html.")
    ] = Path("report.html"),
) -> None:
    """Write one HTML file of a run, or of several compared: curves, samples, settings."""
    from coop_rl.commands.report import report_runs

    report_runs(runs, out, typer.echo)


def watch(
    runs: RunFolders,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="On 127.0.0.1; 0: any that is free.")
    ] = 0,
) -> None:
    """Serve the report of a growing run on 127.0.0.1; new figures show as they are written."""
    from coop_rl.commands.report import watch_runs

    watch_runs(runs, port, typer.echo)


def compare(
    runs: RunFolders,
    as_json: Annotated[bool, typer.Option("--json", help="A list of differences.")] = False,
) -> None:
    """Compare runs with the first by what they have stored: at equal steps, tokens and time.

    Runs that differ in their seed alone count together: with several seeds, intervals are over
    seeds that both sides have; with one, over the items of the evaluation.
    """
    from coop_rl.commands.report import compare_runs

    compare_runs(runs, typer.echo, as_json=as_json)


def study(
    grid: Annotated[Path, typer.Argument(help="YAML: arms, seeds, contrasts.", metavar="GRID")],
    folder: Annotated[
        Path | None,
        typer.Option("--study-dir", help="Where runs lie; default: <run.dir>/<name of GRID>."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take; start nothing.")
    ] = False,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Tables of what has finished; start nothing.")
    ] = False,
    archive: Annotated[
        Path | None,
        typer.Option("--from", help="Tables of a folder that --export wrote; start nothing."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--export", help="Folder for raw figures; runs it holds are not run again."),
    ] = None,
    num_parallel: Annotated[int, typer.Option("--num-parallel", min=1, help="Runs at a time.")] = 1,
    budget_hours: Annotated[
        float | None,
        typer.Option("--budget-hours", min=0.0, help="Start no run after so many hours."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one object.")] = False,
) -> None:
    """Run a declared grid and say what it found; the same command goes on where it stopped.

    Every run is an ordinary one of train, in ARM/SEED of the study's folder; finished ones are
    not run again. Tables: paired by seed, at equal steps, generated tokens and device-seconds.
    """
    from coop_rl.commands.study import StudyRequest, run_study

    request = StudyRequest(
        grid, folder, dry_run, table_only, archive, to, num_parallel, budget_hours, as_json
    )
    run_study(request, typer.echo, partial(typer.echo, err=as_json))


def export(
    run: Annotated[Path, typer.Argument(help="Run directory, or step-* folder of a run.")],
    folder: Annotated[Path, typer.Argument(help="Where to; new or empty.", metavar="DIR")],
    adapter: Annotated[
        bool,
        typer.Option(
            "--adapter/--merged",
            help="Trained base and w apart, in PEFT's format, instead of one merged model.",
        ),
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank",
            min=1,
            help="With --adapter: LoRA of the way from the original base; its error is stated.",
        ),
    ] = None,
    checkpoint: Annotated[
        Literal["newest", "best"], typer.Option("--checkpoint", help="Of a run directory.")
    ] = "newest",
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option("--dtype", help="Of the weights; default: what the run's engines served."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="The base model, where it has moved.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option("--push", help="Send it to the hub; made private.", metavar="OWNER/NAME"),
    ] = None,
) -> None:
    """Write a run's policy as a Hugging Face model with its card; start nothing."""
    from rich.console import Console

    from coop_rl.commands.export import ExportRequest, export_run

    request = ExportRequest(run, folder, adapter, rank, checkpoint, dtype, base, push)
    export_run(request, Console(highlight=False, markup=False))
