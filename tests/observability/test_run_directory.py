"""One run, one folder, one driver; its config is valid input; its status is always right."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from coop_rl.config import RunConfig, load_config
from coop_rl.errors import Interrupted, RunDirectoryError, RunError
from coop_rl.observability import run_directory
from coop_rl.observability.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/local/demo.yaml"


def config(*overrides: str) -> RunConfig:
    return load_config(DEMO, ["learner.lr=0.0002", "run.seed=0", "run.name=demo", *overrides])


def run_json(directory: RunDirectory) -> dict:
    return json.loads((directory.path / "run.json").read_text())


def test_new_folder_holds_a_config_that_is_valid_input(tmp_path: Path) -> None:
    directory = RunDirectory.open(config(f"run.dir={tmp_path}/a/b"), None)
    assert directory.path == tmp_path / "a/b/demo"
    assert load_config(directory.path / "config.json") == directory.config
    assert directory.logs.is_dir()
    assert directory.checkpoints.is_dir()
    assert RunDirectory.open(config(), tmp_path / "given").path == tmp_path / "given"


def test_another_config_is_refused_and_the_field_named(tmp_path: Path) -> None:
    RunDirectory.open(config(), tmp_path)
    with pytest.raises(RunDirectoryError) as refused:
        RunDirectory.open(config("learner.lr=1e-3", "run.seed=7"), tmp_path)
    text = str(refused.value)
    assert "learner.lr 0.0002, got 0.001 and 1 more field" in text
    assert "another run.name or --run-dir" in text
    with pytest.raises(RunDirectoryError, match=r"method.kind 'bridge', got 'rl'"):
        RunDirectory.open(config("method.kind=rl"), tmp_path)


def test_a_field_that_an_older_version_did_not_have_was_at_its_default(tmp_path: Path) -> None:
    mixture = "meta.w_objective=mixture"
    path = RunDirectory.open(config(mixture), tmp_path).path / "config.json"
    values = json.loads(path.read_text())
    del values["method"]["cold_start_steps"]
    path.write_text(json.dumps(values))
    with pytest.raises(RunDirectoryError, match=r"method.cold_start_steps None, got 3"):
        RunDirectory.open(config(mixture, "method.cold_start_steps=3"), tmp_path)
    assert RunDirectory.open(config(mixture), tmp_path).config == config(mixture)


def test_where_and_how_long_may_change(tmp_path: Path) -> None:
    RunDirectory.open(config(), tmp_path)
    longer = config("run.num_steps=90", "placement.rollout.cpus=2", "checkpoint.every=1")
    directory = RunDirectory.open(longer, tmp_path)
    assert load_config(directory.path / "config.json").run.num_steps == 90


def test_foreign_and_unwritable_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match=r"holds files but no run"):
        RunDirectory.open(config(), tmp_path)
    with pytest.raises(RunDirectoryError, match=r"cannot write run directory .*thesis.tex/x: "):
        RunDirectory.open(config(), tmp_path / "thesis.tex" / "x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        RunDirectory.open(config(), tmp_path / "damaged")


def test_status_follows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "s3cr3t")
    directory = RunDirectory.open(config(), tmp_path)
    with directory.running():
        values = run_json(directory)
        assert (values["status"], values["seed"], values["num_resumes"]) == ("running", 0, 0)
        assert values["versions"]["torch"]
        assert values["pid"] == os.getpid()
    assert run_json(directory)["status"] == "finished"
    with pytest.raises(RunError), directory.running():
        raise RunError("rollout-0 died")
    values = run_json(directory)
    assert (values["status"], values["error"]) == ("failed", "RunError: rollout-0 died")
    with pytest.raises(Interrupted), directory.running():
        raise Interrupted("after step 3")
    assert run_json(directory)["status"] == "interrupted"
    with directory.running() as status:
        status.finish("finished")
    assert run_json(directory)["num_resumes"] == 3
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"s3cr3t" in p.read_bytes()]


def test_on_a_full_disk_the_status_is_true_and_the_error_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory.open(config(), tmp_path)

    def full(path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def fail() -> None:
        with directory.running():
            monkeypatch.setattr(run_directory, "write_text", full)
            directory.note_actors({})

    with pytest.raises(RunError) as stopped:
        fail()
    expected = f"driver cannot write {tmp_path / 'actors.json'}: No space left on device"
    assert str(stopped.value) == f"{expected}; free space there"
    assert run_json(directory)["status"] == "failed"
    assert run_json(directory)["error"].startswith(f"RunError: {expected}")


def test_the_end_is_written_before_the_actors_are_ended(tmp_path: Path) -> None:
    """Where Ray has lost a process, ending them may end this one as well."""
    directory = RunDirectory.open(config(), tmp_path)
    seen: list[str] = []

    def fail() -> None:
        with directory.running() as status:
            try:
                with status.ending():
                    raise RunError("Ray's own process raylet died")
            finally:
                seen.append(run_json(directory)["status"])

    with pytest.raises(RunError, match="raylet"):
        fail()
    assert seen == ["failed"]


def test_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    directory = RunDirectory.open(config(), tmp_path)
    assert directory.unreadable_rows() == []
    directory.metrics.write_bytes(b'{"step": 0}\n\0\0\n' + b"\xff\n" * 9)
    directory.samples.write_text('{"step": 0, "response": "a\u2028b"}\n')
    assert directory.unreadable_rows() == [
        "metrics.jsonl: no row can be read in line 2, 3, 4, 5, 6, ...; left out"
    ]


def test_two_drivers_do_not_share_a_folder(tmp_path: Path) -> None:
    directory = RunDirectory.open(config(), tmp_path)
    code = f"""
import time
from pathlib import Path
from coop_rl.config import load_config
from coop_rl.observability.run_directory import RunDirectory
with RunDirectory.open(load_config(Path({str(DEMO)!r})), Path({str(tmp_path)!r})).running():
    print("in", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "in\n"
    with pytest.raises(RunDirectoryError, match="another process is running"), directory.running():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run_json(directory)["status"] == "running"
    with directory.running():
        pass
    assert run_json(directory)["status"] == "finished"


def test_warnings_of_libraries_go_to_the_drivers_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    directory = RunDirectory.open(config(), tmp_path)
    library = logging.getLogger("transformers")
    handlers = list(library.handlers)
    with directory.running():
        logging.getLogger("transformers.modeling").warning("a library's complaint")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a warning", stacklevel=1)
    assert library.handlers == handlers
    log = (directory.logs / "driver.log").read_text()
    assert "a library's complaint" in log
    assert "a warning" in log
    captured = capfd.readouterr()
    assert "complaint" not in captured.out + captured.err
    assert "a warning" not in captured.out + captured.err


def test_an_actors_output_goes_to_its_log_with_its_childrens(tmp_path: Path) -> None:
    log = tmp_path / "logs/rollout-0.log"
    code = f"""
import logging, os, subprocess, sys, warnings
from pathlib import Path
from coop_rl.observability.logs import redirect_output
print("before")
redirect_output(Path({str(log)!r}))
print("printed")
print("complained", file=sys.stderr)
os.write(1, b"from C\\n")
subprocess.run(["sh", "-c", "echo child; echo child error >&2"])
logging.getLogger("x").info("logged")
warnings.warn("warned")
raise ValueError("traceback")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("before\n", "")
    text = log.read_text()
    for expected in (
        "printed",
        "complained",
        "from C",
        "child\n",
        "child error",
        "logged",
        "warned",
    ):
        assert expected in text
    assert "ValueError: traceback" in text
