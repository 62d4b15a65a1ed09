"""Bad input: exit code 2, one clear line, no traceback, nothing started, no run directory made."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.main_job.harness import DEMO, ROOT, Job, train


def refuse(run_dir: Path, *overrides: str, config: Path = DEMO) -> str:
    """Run the job, check that it was refused at the door, and return the line it printed."""
    arguments = [
        "train",
        str(config),
        "--run-dir",
        str(run_dir),
        *(f"--set={o}" for o in overrides),
    ]
    job = Job(arguments).start()
    done = job.finish(60)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    assert job.left_over(within_s=1) == []
    return lines[0]


def write_rows(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


GOOD_ROW = json.dumps({"id": "1", "prompt": "1+2+3=?\n", "answer": "6"})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.lrr=1", "unknown config key learner.lrr; did you mean learner.lr?"),
        ("run.num_steps=many", "run.num_steps: Input should be a valid integer"),
        ("method.mix=1.5", "method.mix: Input should be less than or equal to 1, got 1.5"),
        ("model.path=no/such/model", "no/such/model"),
        ("prompts.path=no/such/file.jsonl", "no/such/file.jsonl"),
        ("prompts.template=null", "chat template"),
        ("model.max_length=30", "tokens"),
        ("rollout.num_actors=64", "CPUs are asked for"),
        ("placement.learner.gpus=1", "GPUs are asked for"),
    ],
)
def test_wrong_values(tmp_path: Path, override: str, expected: str) -> None:
    line = refuse(tmp_path / "run", override)
    assert expected in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "rows.jsonl"),
        ([GOOD_ROW] * 2 + [json.dumps({"id": "3", "prompt": "1+1+1=?\n"})], "rows.jsonl:3"),
        ([GOOD_ROW, "{not json"], "rows.jsonl:2"),
        ([json.dumps({"prompt": "1+" * 300 + "1=?\n", "answer": "301"})], "rows.jsonl:1"),
    ],
    ids=["empty", "no answer", "not json", "too long"],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, rows: list[str], expected: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    line = refuse(tmp_path / "run", f"prompts.path={path}")
    assert expected in line
    assert not (tmp_path / "run").exists()


def test_missing_config_file(tmp_path: Path) -> None:
    assert "cannot read config" in refuse(tmp_path / "run", config=tmp_path / "absent.yaml")


def test_unwritable_run_directory(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert "cannot write run directory" in refuse(blocker / "run")


def test_run_directory_of_another_config(tmp_path: Path) -> None:
    config = subprocess.run(
        [sys.executable, "-m", "coop_rl", "show-config", str(DEMO), "--set=learner.lr=3e-4"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.json").write_text(config.stdout)
    line = refuse(run_dir)
    assert "learner.lr" in line
    assert "belongs to a run with" in line


def test_model_without_safetensors(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text((ROOT / "configs/local/demo/model/config.json").read_text())
    assert "model" in refuse(tmp_path / "run", f"model.path={model}")


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    # Bound but not listening: connections are refused.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        job = train(tmp_path / "run", f"placement.address={address}").start()
        done = job.finish(90)
    assert done.returncode == 2
    assert f"no Ray cluster at placement.address '{address}': " in done.stderr
    assert "Traceback" not in done.stderr
    assert job.left_over() == []


def test_unknown_option_and_command() -> None:
    for arguments in (["train", str(DEMO), "--bogus"], ["fly"]):
        assert Job(arguments).start().finish(60).returncode == 2


def test_show_config_and_schema_work() -> None:
    shown = Job(["show-config", str(DEMO), "--set=run.seed=7"]).start().finish(60)
    assert json.loads(shown.stdout)["run"]["seed"] == 7
    schema = Job(["schema"]).start().finish(60)
    assert "learner" in json.loads(schema.stdout)["properties"]
