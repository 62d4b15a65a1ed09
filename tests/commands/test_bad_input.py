"""Bad input: exit code 2, one clear line, nothing started, no run directory made."""

import json
import socket
from pathlib import Path

import pytest

from coop_rl.config import load_config
from coop_rl.config.paths import PACKAGES
from tests.support.in_process import ROOT, coop_rl

DEMO = ROOT / "configs/local/demo.yaml"
GOOD_ROW = json.dumps({"id": "1", "prompt": "1+2+3=?\n", "answer": "6"})


def refuse(run_dir: Path, *overrides: str, config: Path = DEMO) -> str:
    """Check that a run is refused at the door, and return the line that is printed."""
    sets = [f"--set={override}" for override in overrides]
    done = coop_rl("train", str(config), "--run-dir", str(run_dir), *sets)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.stdout == ""
    return line


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
    assert expected in refuse(tmp_path / "run", override)
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
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows) + "\n")
    assert expected in refuse(tmp_path / "run", f"prompts.path={path}")
    assert not (tmp_path / "run").exists()


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    hostile = "a\x1b[2Jb\u202ec\x9bd\ne"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({hostile: "1"}) + "\n")
    config = tmp_path / "run.yaml"
    config.write_text(f"{json.dumps(hostile)}: 1\n")
    for line in (
        refuse(tmp_path / "run", f"prompts.path={rows}"),
        refuse(tmp_path / "run", config=config),
        refuse(tmp_path / "run", f"learner.{hostile}=1"),
    ):
        assert line.isprintable()
        assert r"a\x1b[2Jb\u202ec\x9bd\ne" in line


def test_missing_config_file(tmp_path: Path) -> None:
    assert "cannot read config" in refuse(tmp_path / "run", config=tmp_path / "absent.yaml")


def test_unwritable_run_directory(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    assert "cannot write run directory" in refuse(blocker / "run")


def test_a_run_directory_in_a_jobs_package_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / PACKAGES / "_ray_pkg_1/runs/demo"
    assert "lies in the job's package, which Ray deletes" in refuse(folder)
    assert not (tmp_path / PACKAGES).exists()


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    # Bound but not listening: connections are refused.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        run_dir, cluster = ("--run-dir", str(tmp_path / "run")), f"placement.address={address}"
        done = coop_rl("train", str(DEMO), *run_dir, f"--set={cluster}")
    assert done.returncode == 2
    assert f"no Ray cluster at placement.address '{address}': " in done.stderr
    assert "Traceback" not in done.stderr


def test_run_directory_of_another_config(tmp_path: Path) -> None:
    shown = coop_rl("show-config", str(DEMO), "--set=learner.lr=3e-4")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(shown.stdout)
    line = refuse(tmp_path / "run")
    assert "learner.lr" in line
    assert "belongs to a run with" in line
    values = json.loads(shown.stdout) | {"a\nb": 1}
    (tmp_path / "run/config.json").write_text(json.dumps(values))
    assert r"belongs to a run with a\nb 1, got None" in refuse(tmp_path / "run")


def test_model_without_safetensors(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text((ROOT / "configs/local/demo/model/config.json").read_text())
    assert "model" in refuse(tmp_path / "run", f"model.path={model}")


def test_an_unknown_benchmark_to_evaluate_on(tmp_path: Path) -> None:
    model = str(ROOT / "configs/local/demo/model")
    done = coop_rl("evaluate", model, "--benchmark", "gsm9k", "--out", str(tmp_path / "o"))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "unknown benchmark 'gsm9k'; allowed: math500" in line
    assert not (tmp_path / "o").exists()


def test_unknown_option_and_command() -> None:
    for arguments in (["train", str(DEMO), "--bogus"], ["fly"]):
        assert coop_rl(*arguments).returncode == 2


def test_show_config_and_schema_work(tmp_path: Path) -> None:
    shown = coop_rl("show-config", str(DEMO), "--set=run.seed=7")
    assert json.loads(shown.stdout)["run"]["seed"] == 7
    (tmp_path / "shown.json").write_text(shown.stdout)
    assert load_config(tmp_path / "shown.json").run.seed == 7
    assert "learner" in json.loads(coop_rl("schema").stdout)["properties"]
