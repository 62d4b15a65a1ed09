"""`coop-rl evaluate`: models or runs on benchmarks, through the same actors as in training.

All models, files and names are checked, and checkpoints merged, before Ray starts.

    <out>/<model>/<set>.json              figures, item by item
                  <set>.responses.jsonl   every response with its verdict
                  config.json  logs/
    <out>/summary.json                    figures and paired differences, written last
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coop_rl.commands.stored_checkpoint import StoredCheckpoint, Which, run_folder
from coop_rl.config import ServingConfig, load_config, load_serving_config
from coop_rl.config.evaluation import EvaluationSection
from coop_rl.config.sizes import serving_devices
from coop_rl.distributed.build import team_of
from coop_rl.distributed.cluster import preflight_local, ray_session
from coop_rl.distributed.watch import watching
from coop_rl.driver.checkpoint_store import digest
from coop_rl.driver.fleet import Fleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.replacement import Replacements
from coop_rl.driver.scoring import Scoring
from coop_rl.driver.stop import StopAtBoundary, StopRequest
from coop_rl.errors import ConfigError, Interrupted, RunDirectoryError
from coop_rl.evaluation.measure import measure
from coop_rl.evaluation.result import Comparison, EvaluationResult, compare, write_json
from coop_rl.evaluation.sets import EvaluationSet, serving_sets
from coop_rl.files import remove_empty
from coop_rl.learner.export import export_cached
from coop_rl.observability.evaluation_console import EvaluationConsole
from coop_rl.observability.logs import route_library_logs
from coop_rl.observability.run_directory import git_commit, package_versions
from coop_rl.rewards.user import check_functions
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion

SERVED = PolicyVersion(0, 0)
"""What an engine calls the weights it was started with."""
WITHOUT_RUN: dict[str, dict[str, Any]] = {
    "reward": {"kind": "math", "num_workers": 2},
    "rollout": {"max_tokens": 2048},
}
"""Defaults for a model that comes without a run and without --config."""
ASKED = {"question_template", "system", "template", "template_arguments"}
"""What a file given as --data takes from the config's own set: the form a policy has learned."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """The command line of `coop-rl evaluate`."""

    models: tuple[str, ...]
    """Model folders, hub ids, run directories or step-* folders of runs."""
    benchmarks: tuple[str, ...] = ()
    """Names of sets, the config's held-out set included. Empty, without `data`: the config's."""
    data: Path | None = None
    """A JSONL file that replaces the config's held-out set."""
    data_dir: str | None = None
    """Where benchmarks lie; None: as the config says, like the following options."""
    num_items: int | None = None
    """Rows of each set; None: all of them."""
    num_samples: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    checkpoint: Which = "newest"
    """Which checkpoint of a run directory is served."""
    config: Path | None = None
    """A run config whose sections replace those of a run."""
    overrides: tuple[str, ...] = ()
    """What `--set` was given."""
    may_run_code: bool = False
    """Whether reward functions that a run's own config names may be imported here."""


@dataclass(frozen=True, slots=True)
class Target:
    """One model, ready to be served."""

    name: str
    """The model's folder in the output."""
    origin: str
    """What the user gave: a folder, a hub id or a run."""
    config: ServingConfig
    """How the model is served and measured."""
    step: int
    """Steps it was trained; 0 for a model that comes without a run."""
    sets: tuple[EvaluationSet, ...]
    """What it is measured on."""


def run_evaluation(
    request: EvaluationRequest, out: Path | None
) -> dict[str, dict[str, EvaluationResult]]:
    """Evaluate all models and compare them with the first; returns results by model and set.

    Raises:
        UserError: The input is wrong; nothing was started.
        RunError: An actor was lost; what was measured before is in `out`.
        Interrupted: The user stopped it.
    """
    _check(request)
    console = EvaluationConsole()
    targets: list[Target] = []
    for model in request.models:
        taken = [target.name for target in targets]
        targets.append(_resolve(request, model, taken, console))
    for target in targets:
        if target.config.placement.address is None:
            preflight_local(serving_devices(target.config))
    out = _make_folder(out, [target.name for target in targets])
    results: list[list[EvaluationResult]] = []
    try:
        for target in targets:
            results.append(_evaluate(target, out / target.name, console))
            console.table(target.name, results[-1])
        _compare(out, targets, results, console)
    finally:
        remove_empty(out)  # of models that were not reached
    console.line(f"results in {out}")
    return {
        target.name: {result.name: result for result in found}
        for target, found in zip(targets, results, strict=True)
    }


def _check(request: EvaluationRequest) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: Of the first.
    """
    if request.data and not request.data.is_file():
        raise ConfigError(f"there is no file {request.data}; give an existing JSONL file as --data")


def _resolve(
    request: EvaluationRequest, model: str, taken: Sequence[str], console: EvaluationConsole
) -> Target:
    """Find out what `model` is, and check it."""
    path = Path(model).expanduser()
    name, step = path.resolve().name if path.is_dir() else model.replace("/", "--"), 0
    if request.config is None and (folder := run_folder(path)):
        _refuse_code(request, folder)
    if run := StoredCheckpoint.find(path, request.checkpoint, say=console.line):
        made = digest(run.checkpoint)
        exported = export_cached(run.config, run.checkpoint, made, run.path / "exports")
        name, step = run.name, run.step
        config = _config(request, request.config or run.path / "config.json", str(exported))
    else:
        config = _config(request, request.config, model)
    number = 1 + sum(other == name or other.startswith(f"{name}+") for other in taken)
    unique = name if number == 1 else f"{name}+{number}"
    check_functions(config.reward)
    return Target(unique, model, config, step, tuple(serving_sets(config)))


def _refuse_code(request: EvaluationRequest, run: Path) -> None:
    """Refuse to run code because a folder, which may come from anybody, says so.

    Raises:
        ConfigError: Names the function.
    """
    functions = load_config(run / "config.json").reward.functions
    if functions and not request.may_run_code:
        raise ConfigError(
            f"{run / 'config.json'} names the reward function {functions[0]}, whose code would run "
            "here; give --allow-code if you trust it, or a config of your own as --config"
        )


def _config(request: EvaluationRequest, path: Path | None, model: str) -> ServingConfig:
    """Put the file's sections, the options and the overrides together, in this order."""
    evaluation: dict[str, Any] = {
        "data_dir": request.data_dir,
        "num_samples": request.num_samples,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }
    base = load_serving_config(path, {"model": {"path": model}}).evaluation if path else None
    if request.data:
        evaluation |= {
            "name": request.data.stem,
            "data": {"path": str(request.data), **_asked(base)},
        }
    if request.benchmarks or request.data:
        own = [] if base is None or request.data else base.held_out
        kept = {held_out.name: held_out for held_out in own if held_out.name in request.benchmarks}
        evaluation["benchmarks"] = [name for name in request.benchmarks if name not in kept]
        evaluation["more_data"] = {
            name: held_out.source.model_dump(mode="json")
            for name, held_out in kept.items()
            if base and name in base.more_data
        }
        if not request.data and len(kept) == len(evaluation["more_data"]):
            evaluation["data"] = None
    defaults: dict[str, dict[str, Any]] = {
        "model": {"path": model},
        "evaluation": evaluation,
    }
    if path is None:
        defaults |= WITHOUT_RUN
    items = "null" if request.num_items is None else str(request.num_items)
    dropped = (
        ("evaluation.data=null",) if "data" in evaluation and evaluation["data"] is None else ()
    )
    cuts = (f"evaluation.num_items={items}", f"evaluation.benchmark_items={items}")
    typed = dict.fromkeys(cuts, f"--num-items {items}")
    return load_serving_config(path, defaults, (*cuts, *dropped, *request.overrides), typed)


def _asked(base: EvaluationSection | None) -> dict[str, Any]:
    """Return how the config's own set is asked; the chat template where it has none."""
    if base is None or base.data is None:
        return {"template": None}
    return base.data.model_dump(include=ASKED)


def _make_folder(out: Path | None, names: Sequence[str]) -> Path:
    """Make the output folder, with one inside for each model.

    Raises:
        RunDirectoryError: It cannot be written, or holds files.
    """
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = (out or Path("evaluations") / f"{names[0]}-{time}").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise RunDirectoryError(f"{folder} holds files; give an empty or new folder to --out")
        for name in names:
            (folder / name).mkdir()
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {folder}: {error.strerror}; give another --out"
        ) from None
    return folder


def _evaluate(target: Target, folder: Path, console: EvaluationConsole) -> list[EvaluationResult]:
    """Serve one model and measure it on its sets."""
    config, stop = target.config, StopRequest()
    write_json(folder / "config.json", config.model_dump(mode="json"))
    about = {"model": target.origin, "versions": package_versions(), "git_commit": git_commit()}
    devices, logs = serving_devices(config), folder / "logs"
    results: list[EvaluationResult] = []
    try:
        with (
            route_library_logs(logs / "driver.log"),
            ray_session(config.placement, devices, f"evaluate-{target.name}"),
            stop.listening(),
            team_of(config, logs, console.milestone) as team,
            watching(config.recovery, team, console.milestone, logs),
        ):
            console.milestone(f"starting {target.name}")
            limit_s = config.placement.startup_timeout_s
            team.start(limit_s, config.sync.timeout_s, (), console.milestone)
            rewards = Replacements.of_rewards(
                config, team, Stages(), console.milestone, lambda: None
            )
            scoring = Scoring(team.rewards, rewards)
            generation = TeamGeneration(
                config, Fleet(team.rollouts), scoring, stop, console.advance
            )
            for chosen in target.sets:
                console.begin(chosen.name, 2 * len(chosen.prompts))
                responses = folder / f"{chosen.name}.responses.jsonl"
                result = measure(config, chosen, generation.run, SERVED, target.step, responses)
                result.write(folder / f"{chosen.name}.json", about)
                console.end(result)
                results.append(result)
    except (StopAtBoundary, Interrupted):
        raise Interrupted(f"what was measured is in {folder}") from None
    finally:
        console.close()
    return results


def _compare(
    out: Path,
    targets: Sequence[Target],
    results: Sequence[Sequence[EvaluationResult]],
    console: EvaluationConsole,
) -> None:
    """Show and write every model's figures, and the later ones' differences to the first."""
    first = {result.name: result for result in results[0]}
    summary: list[dict[str, Any]] = []
    for target, found in zip(targets, results, strict=True):
        comparisons: list[Comparison] = []
        if target is not targets[0]:
            pairs = [compare(first[r.name], r) for r in found if r.name in first]
            comparisons = [pair for pair in pairs if pair]
            compared = {c.name for c in comparisons}
            skipped = [r.name for r in found if r.name not in compared]
            console.differences(targets[0].name, target.name, comparisons, skipped)
        summary.append(
            {
                "name": target.name,
                "model": target.origin,
                "step": target.step,
                "figures": {
                    r.name: {k: asdict(e) for k, e in r.estimates.items()}
                    | {k: asdict(r)[k] for k in ("truncated", "format", "unscored", "length_mean")}
                    | {"num_items": len(r.ids), "num_tokens": r.num_tokens, "seconds": r.seconds}
                    for r in found
                },
                "differences": {
                    c.name: {k: asdict(e) for k, e in c.differences.items()} for c in comparisons
                },
            }
        )
    about = {"versions": package_versions(), "git_commit": git_commit(), "models": summary}
    write_json(out / "summary.json", about)
