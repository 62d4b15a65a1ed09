"""The commands as Python functions, and what a run left as tables; `import coop_rl` offers them.

A function raises what a command would print: `coop_rl.errors.UserError` where the input is wrong
and nothing was started, `RunError` where a run failed, `Interrupted` where it was stopped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coop_rl.config import RunConfig, load_config
from coop_rl.config.load import build_config
from coop_rl.errors import RunDirectoryError
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.metric_names import EVALUATION
from coop_rl.observability.sinks import read_jsonl

if TYPE_CHECKING:  # slow to import
    import pandas as pd

Config = RunConfig | Mapping[str, Any] | str | Path


@dataclass(frozen=True, slots=True)
class Result:
    """A run directory, finished or under way; every table is read anew when it is asked for."""

    path: Path

    @property
    def config(self) -> RunConfig:
        """The resolved config."""
        return load_config(self.path / "config.json")

    @property
    def status(self) -> dict[str, Any]:
        """run.json: how the run stands, versions, commit, times."""
        values: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        return values

    @property
    def metrics(self) -> "pd.DataFrame":
        """A row for every step, a column for every metric (docs/metrics.md); NaN where null."""
        return self._rows(is_evaluation=False)

    @property
    def evaluations(self) -> "pd.DataFrame":
        """A row for every evaluation; the index is the steps trained before it."""
        return self._rows(is_evaluation=True)

    @property
    def samples(self) -> "pd.DataFrame":
        """A row for every stored rollout: step, prompt, response, reward, verdict."""
        import pandas as pd

        path = self.path / "samples.jsonl"
        return pd.DataFrame(read_jsonl(path) if path.is_file() else [])

    def evaluation(self, step: int) -> dict[str, EvaluationResult]:
        """Return the evaluations after `step` steps item by item, by the names of their sets."""
        files = sorted((self.path / f"evaluations/step-{step:06d}").glob("*.json"))
        return {result.name: result for result in map(EvaluationResult.read, files)}

    def _rows(self, *, is_evaluation: bool) -> "pd.DataFrame":
        import pandas as pd

        path = self.path / "metrics.jsonl"
        rows = [
            row
            for row in (read_jsonl(path) if path.is_file() else [])
            if any(name.startswith(EVALUATION) for name in row) == is_evaluation
        ]
        return pd.DataFrame(rows).set_index("step") if rows else pd.DataFrame()


def train(
    config: Config,
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    resume: str = "auto",
) -> Result:
    """Train as `coop-rl train` does, on this machine or the config's cluster.

    It trains in the caller's own process, which nobody can start again: where somebody is lost it
    raises `ActorLostError`, and the same call goes on from the newest checkpoint.

    Args:
        config: A file, its sections as a mapping, or a config.
        overrides: `section.field=value`, as for `--set`.
        run_dir: The run directory; None: `<run.dir>/<run.name>`.
        resume: `auto`, `never`, or a checkpoint folder.
    """
    from coop_rl.commands.train import run_training

    if isinstance(config, str | Path):
        checked = load_config(Path(config), overrides)
    else:
        values = config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config)
        checked = build_config(values, "config", overrides)
    return Result(run_training(checked, Path(run_dir) if run_dir else None, resume))


def evaluate(
    *models: str | Path, out: str | Path | None = None, **options: Any
) -> dict[str, dict[str, EvaluationResult]]:
    """Measure models or runs as `coop-rl evaluate` does; later ones are compared with the first.

    Args:
        models: Model folders, hub ids, run directories or step-* folders of runs.
        out: Where results go; None: `evaluations/<model>-<time>`.
        options: As the command's, by the names of `EvaluationRequest`: benchmarks, data, num_items,
            num_samples, max_tokens, temperature, checkpoint, config, overrides.

    Returns:
        For each model its results by the names of their sets.
    """
    from coop_rl.commands.evaluate import EvaluationRequest, run_evaluation

    for name in ("data", "config"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    for name in ("benchmarks", "overrides"):
        options[name] = tuple(options.get(name, ()))
    request = EvaluationRequest(tuple(map(str, models)), **options)
    return run_evaluation(request, Path(out) if out else None)


def compare(*runs: str | Path) -> "pd.DataFrame":
    """Compare runs with the first by what they have stored, as `coop-rl compare` does.

    Returns:
        A row for each figure, arm and axis of equal cost: `value` with `low` and `high`, and what
        the interval is `over`.
    """
    import pandas as pd

    from coop_rl.commands.report import compared

    _, differences = compared([Path(run) for run in runs])
    return pd.DataFrame([asdict(difference) for difference in differences])


def load_run(path: str | Path) -> Result:
    """Open a run directory, also one of a run under way.

    Raises:
        RunDirectoryError: It is none.
    """
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise RunDirectoryError(f"{folder} is no run (no config.json); give a run directory")
    return Result(folder)
