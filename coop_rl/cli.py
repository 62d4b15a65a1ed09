"""`coop-rl`: parse the command line, hand over, and turn errors into exit codes. No logic.

Exit codes: 0 done; 2 the user's input is wrong (one line, nothing started); 1 the run failed (which
actor, why, how to resume); 130 interrupted after a clean checkpoint.
"""

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from coop_rl.cli_runs import add_run_commands
from coop_rl.commands.options import Allow, AllowCode, DataFile, spread_option
from coop_rl.config import load_config
from coop_rl.config.editor_schema import editor_schema
from coop_rl.config.reward import VerifierKind
from coop_rl.errors import ConfigError, Interrupted, RunError, UserError, printable
from coop_rl.redaction import redacted
from coop_rl.version import __version__

app = typer.Typer(
    name="coop-rl",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Look at the data of a config, or fetch some.", no_args_is_help=True)
app.add_typer(data_app, name="data")
add_run_commands(app)

ConfigPath = Annotated[Path, typer.Argument(help="YAML (or JSON) run config.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value.", metavar="A.B=C"),
]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"coop-rl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print it.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Cooperative SFT and RL (BRIDGE) on Ray, vLLM and DeepSpeed."""


RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Run directory; default: <run.dir>/<run.name>.")
]

Quiet = Annotated[bool, typer.Option("--quiet", help="Print evaluations and the summary alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, only that.")]


@app.command()
def demo(
    overrides: Overrides = None,
    run_dir: RunDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the main job on what comes with the package: 2 CPU cores, minutes, no downloads."""
    from coop_rl.commands.demo import demo_file

    run_config = load_config(demo_file(), overrides or [])
    from coop_rl.commands.supervised import train_supervised

    train_supervised(run_config, run_dir, "auto", (), is_quiet=quiet, is_json=as_json)


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: RunDir = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            help="auto: go on where this run directory stopped; never; or a checkpoint folder.",
        ),
    ] = "auto",
    allow: Allow = None,
    profile: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--profile",
            help="Record these steps: a Perfetto trace and a table in <run directory>/profile.",
            metavar="FIRST LAST",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, as check does.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the main job: train with the method the config names."""
    recorded = {}
    if profile:
        typed = f"--profile {profile[0]} {profile[1]}"
        recorded[f"observability.profile_steps={list(profile)}"] = typed
    run_config = load_config(config, [*(overrides or []), *recorded], recorded)
    if dry_run:
        from rich.console import Console

        from coop_rl.commands.check import check_run

        check_run(run_config, Console(highlight=False), run_dir, resume, allow or ())
        return
    from coop_rl.commands.supervised import train_supervised

    train_supervised(run_config, run_dir, resume, allow or (), is_quiet=quiet, is_json=as_json)


@app.command()
def check(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="As train gets it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of findings.")] = False,
) -> None:
    """Say all that `train` would refuse, at once; start nothing."""
    run_config = load_config(config, overrides or [])
    from rich.console import Console

    from coop_rl.commands.check import check_run  # heavy: ray, transformers

    check_run(run_config, Console(highlight=False), run_dir, as_json=as_json)


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    device: Annotated[
        str | None, typer.Option("--device", help="H100, A100-80G, ...: see an unknown one's error")
    ] = None,
    device_gib: Annotated[
        float | None, typer.Option("--device-gib", help="Memory of a device; default: its kind's.")
    ] = None,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1)] = 8,
) -> None:
    """Print processes, memory, time and the smallest cluster of a run; start nothing."""
    run_config = load_config(config, overrides or [])
    from rich.console import Console

    from coop_rl.commands.plan import plan_run  # heavy: transformers

    plan_run(
        run_config,
        Console(highlight=False),
        device=device,
        device_gib=device_gib,
        gpus_per_node=gpus_per_node,
    )


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="YAML (or JSON) run config.", metavar="[CONFIG]")
    ] = None,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="A run under way instead: who waits for whom, and since when."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of findings.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without the trials: two ranks, and an engine.")
    ] = False,
) -> None:
    """Say what of this machine, and of the config's cluster, would make the run fail."""
    from rich.console import Console

    if (config is None) == (run is None):
        raise ConfigError("doctor looks at a config, or at a run; give CONFIG, or --run DIR")
    if run is not None:
        from coop_rl.commands.live import examine_run

        examine_run(run, Console(highlight=False), as_json=as_json)
        return
    assert config is not None
    run_config = load_config(config, overrides or [])
    from coop_rl.commands.doctor import examine  # heavy: torch, ray

    examine(run_config, Console(highlight=False), as_json=as_json, is_quick=quick)


@app.command()
def submit(
    config: ConfigPath,
    overrides: Overrides = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Absolute, on storage all nodes share.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Job server, http://HEAD:8265; default: RAY_ADDRESS."),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="What travels, but for .rayignore.")
    ] = Path(),
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
) -> None:
    """Run `train` as a job of a Ray cluster; submit it again to resume."""
    run_config = load_config(config, overrides or [])
    from coop_rl.commands.submit import submit_run  # heavy: ray

    submit_run(
        run_config,
        config,
        overrides or [],
        run_dir,
        working_dir,
        address,
        lambda text: typer.echo(text, nl=False),
        wait=wait,
    )


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Model folder, hub id, run directory, or step-* folder of a run.",
            metavar="MODEL_OR_RUN...",
        ),
    ],
    benchmarks: Annotated[
        list[str] | None,
        typer.Option("--benchmark", help="Benchmarks by name, or the config's own sets."),
    ] = None,
    data: DataFile = None,
    data_dir: Annotated[
        str | None,
        typer.Option("--data-dir", help="Folder with <benchmark>/test.jsonl; else COOP_RL_DATA."),
    ] = None,
    num_items: Annotated[
        int | None, typer.Option("--num-items", help="Rows of each set, from its top; all.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="Sampled responses to an item.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Longest response, in tokens.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the sampled responses.")
    ] = None,
    checkpoint: Annotated[
        Literal["newest", "best"], typer.Option("--checkpoint", help="Of a run directory.")
    ] = "newest",
    out: Annotated[
        Path | None, typer.Option("--out", help="Results; default: evaluations/<model>-<time>.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Run config whose serving sections are used.")
    ] = None,
    overrides: Overrides = None,
    may_run_code: AllowCode = False,
) -> None:
    """Measure models on benchmarks; with several, compare each with the first."""
    from coop_rl.commands.evaluate import EvaluationRequest, run_evaluation  # heavy: torch, ray

    request = EvaluationRequest(
        tuple(models),
        tuple(benchmarks or ()),
        data,
        data_dir,
        num_items,
        num_samples,
        max_tokens,
        temperature,
        checkpoint,
        config,
        tuple(overrides or ()),
        may_run_code,
    )
    run_evaluation(request, out)


@app.command()
def judge(
    file: Annotated[
        Path, typer.Argument(help="JSONL: a response and its gold answer a line.", metavar="FILE")
    ],
    kind: Annotated[VerifierKind, typer.Option("--kind", help="See reward.kind.")] = "math",
    response_column: Annotated[
        str, typer.Option("--response-column", help="Column of the response.")
    ] = "response",
    gold_column: Annotated[
        str, typer.Option("--gold-column", help="Column of the right answer.")
    ] = "gold",
    details_columns: Annotated[
        list[str] | None,
        typer.Option("--details-column", help="A column the verifier needs besides: golds, ..."),
    ] = None,
    marker: Annotated[str, typer.Option("--marker", help="See reward.marker; exact only.")] = "#",
    function: Annotated[
        str | None, typer.Option("--function", help="See reward.function; python only.")
    ] = None,
) -> None:
    """Judge responses one already has; where rows say `right`, print those judged otherwise."""
    from rich.console import Console

    from coop_rl.commands.judge import judge_file

    columns = (response_column, gold_column, *(details_columns or ()))
    judge_file(file, kind, marker, function, columns, Console(highlight=False, markup=False))


@data_app.command("check")
def data_check(
    config: ConfigPath,
    overrides: Overrides = None,
    drop: Annotated[
        str | None,
        typer.Option("--drop", help="Drop overlaps of this kind and stronger: same, near, ..."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder the remaining rows are written to.")
    ] = None,
) -> None:
    """Compare training questions with the evaluation's, print overlaps, and drop them if asked."""
    run_config = load_config(config, overrides or [])
    from rich.console import Console

    from coop_rl.commands.data_check import check_data
    from coop_rl.data.overlap import kind_of

    check_data(run_config, kind_of(drop), to, Console())


@data_app.command("prepare")
def data_prepare(
    name: Annotated[
        Literal["gsm8k", "math", "openr1"], typer.Argument(help="The set.", metavar="NAME")
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write <NAME>/<split>.jsonl into.")],
) -> None:
    """Fetch gsm8k, math or openr1 from the hub as files that prompts and demonstrations read."""
    from rich.console import Console

    from coop_rl.commands.data_prepare import prepare_data

    prepare_data(name, to, Console(highlight=False, markup=False))


@app.command("show-config")
def show_config(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the resolved config as JSON, which is valid input again."""
    typer.echo(load_config(config, overrides or []).model_dump_json(indent=2))


@app.command()
def schema() -> None:
    """Print the config's JSON schema, for editors."""
    typer.echo(json.dumps(editor_schema(), indent=2))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Until a run is under way, a signal ends at once (typer would make Ctrl-C exit code 1)."""
    raise Interrupted("nothing was started")


def _tell(problem: str) -> None:
    """Print an error; control characters that came with somebody's data are written out."""
    typer.echo(f"coop-rl: {printable(redacted(problem))}", err=True)


def main() -> None:
    """Entry point of the console script."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _interrupt)
    try:
        app(spread_option(sys.argv[1:], "--benchmark"))
    except UserError as error:
        _tell(str(error))
        sys.exit(2)
    except RunError as error:
        _tell(f"run failed: {error}")
        sys.exit(1)
    except Interrupted as error:
        _tell(f"interrupted: {error}")
        sys.exit(130)
