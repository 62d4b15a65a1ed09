"""The part of `coop-rl`'s command line that is about trained models; `cli` adds it to its own."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def add_model_commands(app: typer.Typer) -> None:
    """Add `export`."""
    app.command()(export)


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
