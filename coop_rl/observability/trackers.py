"""Experiment trackers (W&B, MLflow, trackio, ...) beside metrics.jsonl, by `accelerate.tracking`.

A tracker's run holds the rows of metrics.jsonl, under the same names and steps: a resumed run opens
a new one and begins with the rows it kept, because most trackers can't take rows back. What is null
leaves a gap. Those that show tables get the rows of samples.jsonl too, ten steps a table. Logins
and servers are the trackers' own business: their environment variables and
`observability.tracker_options`.

    check_trackers    before anything starts: is the package there
    Trackers.start    after the run directory is made, before Ray starts: does it open a run
    write, close      the observer; one that fails on the way is dropped, with a line, and the run
                      goes on: metrics.jsonl has everything
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coop_rl.config import RunConfig
from coop_rl.errors import ConfigError, first_line

if TYPE_CHECKING:  # imports torch, and most runs have no tracker
    from accelerate.tracking import GeneralTracker

FOLDER = "trackers"
"""Folder of the run directory for trackers that write files."""
LOCAL = {
    "wandb": ("`WANDB_MODE=offline`; `wandb sync` later", "0.31.0"),
    "mlflow": ("`MLFLOW_TRACKING_URI=sqlite:///mlflow.db`, or `file:` and a folder", "3.17.2"),
    "trackio": ("always; `TRACKIO_DIR`", "0.43.0"),
    "swanlab": ("`{swanlab: {mode: offline}}`; `swanlab sync` later", ""),
    "comet_ml": ("`{comet_ml: {online: false}}`", ""),
    "aim": ("always; in `trackers/` of the run directory", ""),
    "clearml": ("`CLEARML_OFFLINE_MODE=1`", ""),
    "dvclive": ("always; in `trackers/` of the run directory", ""),
}
"""How each goes without a server, and the version whose record was compared with metrics.jsonl."""
PLAIN = {"mlflow"}
"""Trackers whose names of metrics have no `@`."""
WITH_TABLES = ("wandb", "mlflow", "trackio")
"""Trackers that get tables of samples."""
TABLE_STEPS = 10
"""Steps whose samples make a table."""
COLUMNS = ("step", "prompt", "response", "answer", "reward", "verdict")


def check_trackers(config: RunConfig) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        ConfigError: With the package to install.
    """
    for kind in config.observability.trackers:
        if find_spec(kind) is None:
            package = kind.replace("_", "-")
            raise ConfigError(
                f"observability.trackers {kind} needs the package {package}, which is not "
                f"installed; pip install {package}, or take it out"
            )


class Trackers:
    """The trackers of one run."""

    def __init__(self, opened: Mapping[str, "GeneralTracker"], say: Callable[[str], None]) -> None:
        """Write to started trackers; `say` prints a line."""
        self._opened = dict(opened)
        self._say = say
        self._with_tables = set(WITH_TABLES)
        self._samples: list[list[str | float]] = []
        self._last_step = 0

    @classmethod
    def start(cls, config: RunConfig, run_dir: Path, say: Callable[[str], None]) -> "Trackers":
        """Open a run of every tracker that the config names, and give it the config.

        Raises:
            ConfigError: One does not open: no login, no server, or an option it does not know.
        """
        opened: dict[str, GeneralTracker] = {}
        for kind in config.observability.trackers:
            try:
                opened[kind] = _open(kind, config, run_dir)
            except Exception as error:
                raise ConfigError(
                    f"observability.trackers {kind} does not start: {first_line(error)}; log in, "
                    "choose its offline mode (docs/metrics.md), or take it out"
                ) from error
        return cls(opened, say)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Give every tracker a row."""
        self._last_step = max(self._last_step, step)
        values = {k: v for k, v in metrics.items() if v is not None and k != "step"}
        for kind, tracker in list(self._opened.items()):
            names = {tracker_name(kind, name): value for name, value in values.items()}
            self._give(kind, lambda t=tracker, n=names: t.log(n, step=step))  # type: ignore[misc]

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take a step's rows of samples.jsonl, or those of all steps up to it."""
        if self._opened:
            self._samples += map(_cells, rows)
            if (step + 1) % TABLE_STEPS == 0:
                self._send_table()

    def close(self) -> None:
        """Let every tracker send or write what it holds."""
        self._send_table()
        for kind, tracker in list(self._opened.items()):
            self._give(kind, tracker.finish)
        self._opened = {}

    def _send_table(self) -> None:
        """Send what was taken; a tracker that cannot show it still gets figures."""
        rows, self._samples = self._samples, []
        for kind in [kind for kind in self._opened if kind in self._with_tables and rows]:
            try:
                _send_table(kind, self._opened[kind], self._last_step, rows)
            except Exception as error:  # whatever its library raises
                self._say(f"{kind} gets no tables of samples: {first_line(error)}")
                self._with_tables.discard(kind)

    def _give(self, kind: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever its library raises
            self._say(f"{kind} gets no more figures: {first_line(error)}")
            del self._opened[kind]


def tracker_name(kind: str, name: str) -> str:
    """Return a metric's name in a tracker."""
    return re.sub("@", "_at_", name) if kind in PLAIN else name


def flat_config(config: RunConfig) -> dict[str, str | int | float | bool]:
    """Return the config as `section.field` -> value, lists and nulls as JSON text."""
    flat: dict[str, str | int | float | bool] = {}

    def add(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{name}.")
            else:
                is_plain = isinstance(value, str | int | float)
                flat[prefix + name] = value if is_plain else json.dumps(value)

    add(config.model_dump(mode="json", exclude={"observability"}), "")
    return flat


def _open(kind: str, config: RunConfig, run_dir: Path) -> "GeneralTracker":
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=True)  # else it may take a GPU for the driver
    folder, section = run_dir / FOLDER, config.observability
    own: dict[str, dict[str, Any]] = {
        "wandb": {"name": config.run.name, "dir": str(folder)},
        "mlflow": {"run_name": config.run.name},
        "trackio": {"name": config.run.name},
        "swanlab": {"experiment_name": config.run.name, "logdir": str(folder)},
        "clearml": {"task_name": config.run.name},
        "dvclive": {"dir": str(folder / kind), "save_dvc_exp": False},
    }
    chosen = LOGGER_TYPE_TO_CLASS[kind]
    options = own.get(kind, {}) | section.tracker_options.get(kind, {})
    if chosen.requires_logging_directory:
        options = {"logging_dir": str(folder)} | options
    folder.mkdir(exist_ok=True)
    tracker: GeneralTracker = chosen(section.project, **options)
    tracker.start()
    tracker.store_init_configuration(flat_config(config))
    return tracker


def _send_table(kind: str, tracker: Any, step: int, rows: list[list[str | float]]) -> None:
    if kind == "wandb":
        tracker.log_table("samples", columns=list(COLUMNS), data=rows, step=step)
    elif kind == "mlflow":
        columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        run_id = tracker.tracker.info.run_id
        import_module(kind).log_table(columns, f"samples/step-{step:06d}.json", run_id=run_id)
    else:
        frame = import_module("pandas").DataFrame(rows, columns=list(COLUMNS))
        tracker.log({"samples": import_module(kind).Table(dataframe=frame)}, step=step)


def _cells(row: Mapping[str, Any]) -> list[str | float]:
    verdict = "right" if row["is_correct"] else "wrong"
    cells = [
        row["step"],
        row["prompt"],
        row["given"] + row["response"],
        row["answer"],
        row["reward"],
        verdict if row["status"] == "scored" else row["status"],
    ]
    # A lone surrogate, which a model's bytes can decode to, has no UTF-8 form.
    return [c.encode("utf-8", "replace").decode() if isinstance(c, str) else c for c in cells]
