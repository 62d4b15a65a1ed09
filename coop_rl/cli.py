"""`coop-rl`: parse the command line, hand over, and turn errors into exit codes. No logic.

Exit codes: 0 done; 2 the user's input is wrong (one line, nothing started); 1 the run failed (which
actor, why, how to resume); 130 interrupted after a clean checkpoint.
"""

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from coop_rl.config import RunConfig, load_config
from coop_rl.errors import Interrupted, RunError, UserError

app = typer.Typer(
    name="coop-rl",
    help="Cooperative SFT and RL (BRIDGE) on Ray, vLLM and DeepSpeed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML (or JSON) run config.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value.", metavar="A.B=C"),
]


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Run directory; default: <run.dir>/<run.name>.")
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            help="auto: go on where this run directory stopped; never; or a checkpoint folder.",
        ),
    ] = "auto",
) -> None:
    """Run the main job: train with the method the config names."""
    run_config = load_config(config, overrides or [])
    from coop_rl.distributed.run import run_training  # heavy: torch, ray, transformers

    run_training(run_config, run_dir, resume)


@app.command("show-config")
def show_config(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the resolved config as JSON, which is valid input again."""
    typer.echo(load_config(config, overrides or []).model_dump_json(indent=2))


@app.command()
def schema() -> None:
    """Print the config's JSON schema, for editors."""
    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Until a run is under way, Ctrl-C ends at once (typer would make it exit code 1)."""
    raise Interrupted("nothing was started")


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except UserError as error:
        typer.echo(f"coop-rl: {error}", err=True)
        sys.exit(2)
    except RunError as error:
        typer.echo(f"coop-rl: run failed: {error}", err=True)
        sys.exit(1)
    except Interrupted as error:
        typer.echo(f"coop-rl: interrupted: {error}", err=True)
        sys.exit(130)
