"""Each tracker's own record holds the series of metrics.jsonl, also after a resume."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import accelerate.tracking
import pytest
from accelerate.state import PartialState

from coop_rl.config import load_config
from coop_rl.config.run import ObservabilitySection
from coop_rl.errors import ConfigError
from coop_rl.observability.sinks import read_jsonl
from coop_rl.observability.trackers import (
    COLUMNS,
    TABLE_STEPS,
    Trackers,
    check_trackers,
    flat_config,
    tracker_name,
)
from tests.observability.test_observer import DEMO, Session

Series = dict[str, dict[int, float]]


def settings(kind: str, *more: str) -> list[str]:
    return [f"observability.trackers=[{kind}]", *more]


def log_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, which W&B and SwanLab write."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def read_wandb(run: Path) -> Series:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Series = {}
    (file,) = (run / "trackers").glob("wandb/offline-run-*/*.wandb")
    for data in log_records(file):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            for name, value in row.items():
                if not name.startswith("_"):
                    found.setdefault(name, {})[int(row["_step"])] = value
    return found


def read_mlflow(run: Path) -> Series:
    found: Series = {}
    (folder,) = (run / "mlruns").glob("*/*/metrics")
    for file in (path for path in folder.rglob("*") if path.is_file()):
        rows = [line.split() for line in file.read_text().splitlines()]
        name = file.relative_to(folder).as_posix()
        found[name] = {int(step): float(value) for _, value, step in rows}
    return found


def read_trackio(run: Path) -> Series:
    found: Series = {}
    (file,) = (run / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        for step, row in base.execute("select step, metrics from metrics"):
            for name, value in json.loads(row).items():
                found.setdefault(name, {})[step] = value
    return found


def read_tensorboard(run: Path) -> Series:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (run / "trackers").glob("coop-rl")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in names}


def tables_of_wandb(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in run.rglob("files/media/table/samples*.json")]


def tables_of_mlflow(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in run.rglob("samples/step-*.json")]


def tables_of_trackio(run: Path) -> list[dict]:
    found: list[dict] = []
    for table in read_trackio(run)["samples"].values():
        rows = table["_value"]  # type: ignore[index]
        found.append({"columns": list(rows[0]), "data": [list(row.values()) for row in rows]})
    return found


TABLES = {"wandb": tables_of_wandb, "mlflow": tables_of_mlflow, "trackio": tables_of_trackio}
READERS = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


def written(run: Path, kind: str) -> Series:
    found: Series = {}
    for row in read_jsonl(run / "metrics.jsonl"):
        for name, value in row.items():
            if name != "step" and value is not None:
                found.setdefault(tracker_name(kind, name), {})[row["step"]] = value
    return found


@pytest.mark.parametrize("kind", READERS)
def test_a_record_holds_the_series_of_metrics_jsonl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The run is resumed at step 3, and its second session is what is read."""
    if find_spec(kind) is None:
        pytest.skip(f"tracker: {kind} is not installed")
    run = tmp_path / "run"
    for name, value in {
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(run / "trackio"),
        "MLFLOW_TRACKING_URI": (run / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    named = kind
    if kind == "tensorboard":  # in every environment; a run has its own, so no config names it
        named, classes = "aim", accelerate.tracking.LOGGER_TYPE_TO_CLASS
        monkeypatch.setitem(classes, named, classes[kind])
    Session(run).run(range(5), evaluated=(0, 4))
    said: list[str] = []
    session = Session(run, *settings(named))
    trackers = Trackers.start(session.config, run, said.append)
    session.observer._trackers = trackers
    session.run(range(3, 6), evaluated=(6,))
    assert said == []
    found, wanted = READERS[kind](run), written(run, kind)
    assert {step for steps in wanted.values() for step in steps} == set(range(7))
    for name, series in wanted.items():
        assert found[name] == pytest.approx(series, rel=1e-6), name
    if kind in TABLES:
        (table,) = TABLES[kind](run)
        samples = [[row["step"], "2+2=?\n", "#4"] for row in read_jsonl(run / "samples.jsonl")]
        assert [row[:3] for row in table["data"]] == samples
        assert table["columns"] == list(COLUMNS)
        assert table["data"][0][3:] == ["4", 1.0, "right"]


class Recorder(accelerate.tracking.GeneralTracker):
    """A tracker that keeps what it gets, and may fail."""

    name = "wandb"
    requires_logging_directory = False
    main_process_only = False
    failing: tuple[str, ...] = ()

    def __init__(self, project: str, **options: object) -> None:
        super().__init__(_blank=True)
        self.got: list[object] = [(project, options)]
        RECORDERS.append(self)

    def start(self) -> None:
        self._note("start")

    def store_init_configuration(self, values: dict) -> None:
        self._note(values)

    def log(self, values: dict, step: int | None = None, **_: object) -> None:
        self._note("log", step, values)

    def log_table(self, name: str, columns: list, data: list, step: int) -> None:
        self._note("log_table", step, name, columns, data)

    def finish(self) -> None:
        self._note("finish")

    def _note(self, *what: object) -> None:
        self.got.append(what)
        if what[0] in self.failing:
            raise OSError("the server\nis away")


RECORDERS: list[Recorder] = []


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    PartialState(cpu=True)
    RECORDERS.clear()
    monkeypatch.setattr(Recorder, "failing", ())
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    return Recorder


def config(*more: str):
    return load_config(DEMO, settings("wandb", *more))


def test_project_options_and_config_reach_it(recorder, tmp_path: Path) -> None:
    options = "observability.tracker_options={wandb: {mode: offline, tags: [a]}}"
    trackers = Trackers.start(config(options, "observability.project=mine"), tmp_path, print)
    trackers.write(4, {"step": 4, "loss/rl": None, "reward/mean": 0.5})
    trackers.close()
    (one,) = RECORDERS
    folder = str(tmp_path / "trackers")
    assert one.got[0] == (
        "mine",
        {"name": "demo", "dir": folder, "mode": "offline", "tags": ["a"]},
    )
    stored = one.got[2][0]  # type: ignore[index]
    assert stored == flat_config(config())
    assert (stored["learner.lr"], stored["learner.betas"]) == (2e-4, "[0.9, 0.95]")
    assert one.got[3:] == [("log", 4, {"reward/mean": 0.5}), ("finish",)]


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_one_that_fails_on_the_way_does_not_end_the_run(
    recorder, tmp_path: Path, monkeypatch, failing: str
) -> None:
    monkeypatch.setattr(Recorder, "failing", (failing,))
    said: list[str] = []
    trackers = Trackers.start(config(), tmp_path, said.append)
    trackers.write(0, {"reward/mean": 0.5})
    trackers.write(1, {"reward/mean": 0.5})
    trackers.close()
    assert said == ["wandb gets no more figures: the server"]


SAMPLE = {
    "step": 0, "prompt": "p", "given": "g", "response": "r", "answer": "4", "reward": 0.0,
    "is_correct": False, "status": "scored",
}  # fmt: skip


def test_samples_come_ten_steps_a_table_and_the_rest_at_the_end(recorder, tmp_path: Path) -> None:
    trackers = Trackers.start(config(), tmp_path, print)
    late = {"response": "\ud800", "status": "timeout"}
    for step in range(TABLE_STEPS + 1):
        trackers.write(step, {"reward/mean": 0.5})
        trackers.samples(step, [SAMPLE | {"step": step} | (late if step == TABLE_STEPS else {})])
    trackers.close()
    tables = [what for what in RECORDERS[0].got if what[0] == "log_table"]  # type: ignore[index]
    cells = [[step, "p", "gr", "4", 0.0, "wrong"] for step in range(TABLE_STEPS)]
    rest = [[TABLE_STEPS, "p", "g?", "4", 0.0, "timeout"]]
    columns = list(COLUMNS)
    assert tables == [
        ("log_table", TABLE_STEPS - 1, "samples", columns, cells),
        ("log_table", TABLE_STEPS, "samples", columns, rest),
    ]


def test_one_that_takes_no_table_still_gets_figures(recorder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Recorder, "failing", ("log_table",))
    said: list[str] = []
    trackers = Trackers.start(config(), tmp_path, said.append)
    for step in (0, TABLE_STEPS):
        trackers.samples(step + TABLE_STEPS - 1, [SAMPLE])
        trackers.write(step, {"reward/mean": 0.5})
    trackers.close()
    assert said == ["wandb gets no tables of samples: the server"]
    assert [what[0] for what in RECORDERS[0].got[3:]] == ["log_table", "log", "log", "finish"]  # type: ignore[index]


def test_one_that_does_not_start_is_refused(recorder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Recorder, "failing", ("start",))
    with pytest.raises(ConfigError, match="wandb does not start: the server; log in, choose"):
        Trackers.start(config(), tmp_path, print)


def test_a_package_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setattr("coop_rl.observability.trackers.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install comet-ml, or take it out"):
        check_trackers(load_config(DEMO, settings("comet_ml")))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{mlflow: {run_id: a}}", "options of mlflow, which trackers does not name"),
        ("{wandb: {api_key: a}}", "wandb.api_key looks like a secret"),
    ],
)
def test_options_that_cannot_count_are_refused(options: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config(f"observability.tracker_options={options}")


def test_a_run_has_none_unless_it_names_one(tmp_path: Path) -> None:
    assert ObservabilitySection().trackers == []
    trackers = Trackers.start(load_config(DEMO), tmp_path, print)
    trackers.write(0, {"reward/mean": 1.0})
    trackers.close()
    assert not list(tmp_path.iterdir())
