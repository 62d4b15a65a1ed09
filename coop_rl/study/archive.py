"""The raw figures of a study in four small files, from which its tables are made again.

    study.json           the grid, the config of every arm, and of every run how it ended
    steps.parquet        a row a step: every metric that was measured
    between.parquet      a row for what was measured between steps
    evaluations.parquet  a row an evaluation, item by item

Paths in configs are from the working directory, and no host is named: the files may be published.
A study goes on from them where its run folders are gone, on another machine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coop_rl.config.paths import shown
from coop_rl.errors import ConfigError, DataError, first_line
from coop_rl.evaluation.result import EvaluationResult, write_json
from coop_rl.files import rewriting
from coop_rl.report.stored_run import Row, read_object
from coop_rl.study.grid import Grid
from coop_rl.study.planned import Study, run_name
from coop_rl.study.runs import Progress, Results, StudyRun, change_of, choose

INDEX = "study.json"
STEPS, BETWEEN, EVALUATIONS = "steps", "between", "evaluations"
STATUS = (
    "status", "started_at", "ended_at", "num_resumes", "error", "git_commit", "python", "versions",
)  # fmt: skip
LEFT_OUT = ("time/", "sync/")
"""Metrics of seconds and bytes that no table is made of; those below KEPT stay."""
KEPT = ("time/device_s/", "time/step_s")
RUN = "run"
"""Column that says which run a row is of."""


def write_archive(study: Study, runs: Sequence[StudyRun], folder: Path) -> list[Path]:
    """Write a study's finished runs; returns the files.

    Raises:
        RunError: They cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = {
        "grid": study.grid.model_dump(mode="json"),
        "set": study.primary_set,
        "configs": {_setting(run): _portable(run.config) for run in runs},
        "runs": [_about(run) for run in runs],
    }
    rows: dict[str, list[Row]] = {
        STEPS: [_kept(run, row) for run in runs for row in run.steps],
        BETWEEN: [_kept(run, row) for run in runs for row in run.evaluations],
        EVALUATIONS: [
            {RUN: run.name, **asdict(result)}
            for run in runs
            for by_step in run.results.values()
            for result in by_step.values()
        ],
    }
    for name, own in rows.items():
        _write(folder / f"{name}.parquet", own)
    write_json(folder / INDEX, index)  # last: a run that it names has its rows
    return [folder / INDEX, *(folder / f"{name}.parquet" for name in rows)]


def read_archive(folder: Path, grid: Grid) -> tuple[str, list[StudyRun]]:
    """Return the evaluation set that figures are of, and the runs.

    Raises:
        DataError: A file is missing or broken.
        ConfigError: The archive is of another declaration than `grid`.
    """
    index = read_object(folder / INDEX)
    if index is None or not {"grid", "set", "configs", "runs"} <= index.keys():
        raise DataError(
            f"{folder} is no study ({INDEX} is missing or broken); give a folder that "
            "coop-rl study --export wrote"
        )
    declared = grid.model_dump(mode="json")
    stored = _with_later_keys(index["grid"])
    for name in sorted(declared.keys() | stored.keys()):
        if declared.get(name) != stored.get(name):
            raise ConfigError(
                f"{folder} is of another declaration: {name} is not what the grid says; give the "
                "grid it was made from"
            )
    steps, between, evaluations = (
        _by_run(_read(folder / f"{name}.parquet")) for name in (STEPS, BETWEEN, EVALUATIONS)
    )
    runs = []
    for about in index["runs"]:
        name = run_name(about["arm"], about["seed"], about["trial"])
        config = index["configs"][str(Path(name).parent)]
        run = StudyRun(
            folder / name,
            config | {"run": config["run"] | {"seed": about["seed"]}},
            about["status"],
            tuple(steps.get(name, ())),
            tuple(between.get(name, ())),
            (),
            0,
            arm=about["arm"],
            trial=about["trial"],
            archived=_results(evaluations.get(name, ())),
        )
        runs.append(run)
    return str(index["set"]), runs


def _with_later_keys(stored: Row) -> Row:
    """Return a stored declaration with keys that came later at their defaults."""
    try:
        return Grid.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored


def read_exported(study: Study, folder: Path | None) -> dict[str, StudyRun]:
    """Return the runs of a study that an earlier export holds, by name; none where there is none.

    Raises:
        DataError: A file is missing or broken, or `folder` is no folder.
        ConfigError: The export is of another declaration, or a run of it of another config.
    """
    if folder is None or not (folder / INDEX).is_file():
        if folder is not None and folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; give --export a folder, new or a study's export")
        return {}
    exported = {run.name: run for run in read_archive(folder, study.grid)[1]}
    trials = study.trial_runs()
    chosen = choose(study, Progress(exported).finished(trials))
    for run in (*trials, *study.runs(chosen)):
        if run.name not in exported:
            continue
        declared = run.config.model_dump(mode="json")
        if change := change_of(_in_place(exported[run.name].config, declared), run.config):
            raise ConfigError(
                f"{folder} holds another run {run.name} than the grid declares, with {change}; "
                "give another folder to --export"
            )
    return exported


def _in_place(exported: Any, declared: Any) -> Any:
    """Return an exported config's values, with the declared paths where they are the same."""
    if exported == _portable(declared):
        return declared
    if isinstance(exported, dict) and isinstance(declared, dict):
        return {name: _in_place(value, declared.get(name)) for name, value in exported.items()}
    return exported


def _setting(run: StudyRun) -> str:
    """Return what names the config of a run but for its seed."""
    return str(Path(run.name).parent)


def _about(run: StudyRun) -> Row:
    return {
        "arm": run.arm,
        "seed": run.seed,
        "trial": run.trial,
        "status": {name: run.status.get(name) for name in STATUS},
    }


def _portable(value: Any) -> Any:
    """Return a config's values with paths from the working directory."""
    if isinstance(value, Mapping):
        return {name: _portable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        short = shown(value)
        return Path(value).name if Path(short).is_absolute() else short
    return value


def _kept(run: StudyRun, row: Row) -> Row:
    return {RUN: run.name} | {
        name: float(value) if name != "step" else value
        for name, value in row.items()
        if isinstance(value, int | float)
        and (name.startswith(KEPT) or not name.startswith(LEFT_OUT))
    }


def _by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        own = {name: value for name, value in row.items() if value is not None}
        found.setdefault(own.pop(RUN), []).append(own)
    return found


def _results(rows: Iterable[Row]) -> Results:
    found: Results = {}
    for row in rows:
        values: Row = {n: tuple(v) if isinstance(v, list) else v for n, v in row.items()}
        result = EvaluationResult(**values)
        found.setdefault(result.name, {})[result.step] = result
    return found


def _write(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    with rewriting(path) as side:
        pq.write_table(table, side, compression="zstd", compression_level=19)


def _read(path: Path) -> list[Row]:
    import pyarrow as pa  # heavy
    import pyarrow.parquet as pq

    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no whole parquet file: {first_line(error)}") from None
    return rows
