"""A run as a Ray job, from a clean client: submitted, followed, left, stopped in an evaluation.

RL alone with updates in flight, which its rows show. More refusals: tests/commands/test_submit.py.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.main_job.harness import ROOT, SMALL, metrics, train, wait_for_step
from tests.main_job.job_client import LIMIT_S, ask, jobs, wait_for_end
from tests.main_job.ray_head import RAY, Head, ray_head
from tests.main_job.test_overlap import (
    EVALUATED_STEP,
    IN_FLIGHT,
    assert_every_token_knows_its_version,
)

pytestmark = pytest.mark.timeout(600)
CONFIG = "configs/local/demo.yaml"
SCRAPE_LIMIT_S = 60
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as found:
        yield found


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user's clone has it: tracked files only."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "coop_rl", "submit", CONFIG, *arguments]


def sets(*more: str) -> list[str]:
    given = (*SMALL, "method.kind=rl", "checkpoint.every=0", *IN_FLIGHT, *more)
    return [f"--set={value}" for value in given]


def scraped(head: Head, name: str) -> str:
    """Return the line of a gauge, once there is one."""
    deadline = time.monotonic() + SCRAPE_LIMIT_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(head.metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        if found := [line for line in lines if line.startswith(name)]:
            return found[0]
        time.sleep(1)
    raise TimeoutError(f"no {name} within {SCRAPE_LIMIT_S} s")


def is_shown(step: int, num_steps: int, output: str) -> bool:
    return re.search(rf"step +{step}/{num_steps}\b", output) is not None


@dataclass(frozen=True)
class Stopped:
    """A job that was followed until its second step, left, and stopped in an evaluation."""

    run_dir: Path
    environment: dict[str, str]
    name: str
    client: "subprocess.CompletedProcess[str]"
    left: dict[str, Any]
    """The job when its client had left."""
    gauge: str
    """What Prometheus would scrape then."""
    end: dict[str, Any]
    """The job when it was over."""


@pytest.fixture(scope="module")
def stopped(head: Head, client_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    run_dir = tmp_path_factory.mktemp("submitted") / "run"
    environment = head.environment | {"COOP_RL_SEEN": "yes", "COOP_RL_HIDDEN": "no"}
    given = sets("run.num_steps=400", "placement.environment=[COOP_RL_SEEN]")
    client = subprocess.Popen(
        command("--address", head.job_server, "--run-dir", str(run_dir), *given),
        # The address that was given counts, not the environment's.
        cwd=client_folder, env=environment | {"RAY_ADDRESS": NOBODY}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    while not is_shown(2, 400, line := client.stdout.readline()):
        assert line, client.communicate()
    client.send_signal(signal.SIGINT)
    told = client.communicate(timeout=60)
    ((name, left),) = jobs(head).items()
    gauge = scraped(head, "ray_coop_rl_reward_mean")
    wait_for_step(run_dir, EVALUATED_STEP - 1)
    assert ask(head, f"{name}/stop", "POST") == {"stopped": True}
    end = wait_for_end(head, name)
    done = subprocess.CompletedProcess(client.args, client.returncode, *told)
    return Stopped(run_dir, environment, name, done, left, gauge, end)


def test_a_job_is_submitted_followed_and_left(head: Head, stopped: Stopped) -> None:
    assert stopped.client.returncode == 130, stopped.client.stderr
    assert f"job {stopped.name} goes on" in stopped.client.stderr
    assert stopped.left["status"] == "RUNNING"
    variables = stopped.left["runtime_env"]["env_vars"]
    assert variables["COOP_RL_SEEN"] == "yes"
    assert "COOP_RL_HIDDEN" not in variables
    assert head.environment["RAY_AUTH_TOKEN"] not in json.dumps(stopped.left)
    assert 'run="demo"' in stopped.gauge


def test_a_stop_breaks_an_evaluation_off_and_saves_the_last_step(stopped: Stopped) -> None:
    assert stopped.end["status"] == "STOPPED"
    assert "interrupted" in stopped.end["logs"]
    saved = [path.name for path in (stopped.run_dir / "checkpoints").iterdir()]
    assert saved == [f"step-{EVALUATED_STEP:06d}"], stopped.end["logs"]
    assert_every_token_knows_its_version(stopped.run_dir, EVALUATED_STEP)


@pytest.mark.prove  # A run goes on from its last step in test_resume.
def test_a_stopped_job_submitted_again_as_in_rays_own_documentation_resumes_and_ends(
    head: Head, client_folder: Path, stopped: Stopped
) -> None:
    done, num_steps = EVALUATED_STEP, EVALUATED_STEP + 2
    again = subprocess.run(
        [
            RAY, "job", "submit", "--address", head.job_server, "--working-dir", ".", "--",
            "python3", "-m", "coop_rl", "train", CONFIG, "--run-dir", str(stopped.run_dir),
            "--set=placement.address=auto", f"--set=run.num_steps={num_steps}", *sets(),
        ],
        cwd=client_folder, env=stopped.environment, timeout=LIMIT_S, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout[-3000:]
    said = f"resumes from {stopped.run_dir}/checkpoints/step-{done:06d}"
    assert said in again.stdout.replace("\n", "")
    assert is_shown(num_steps, num_steps, again.stdout)
    assert not is_shown(done, num_steps, again.stdout)
    steps = [row["step"] for row in metrics(stopped.run_dir) if "time/step_s" in row]
    assert steps == list(range(num_steps))


@pytest.mark.prove  # Following one in parts: tests/distributed/test_jobs.py.
def test_a_job_that_fails_is_followed_to_its_end(
    head: Head, client_folder: Path, tmp_path: Path
) -> None:
    """The cluster is too small, which only the job itself can find."""
    run_dir = ("--run-dir", str(tmp_path / "run"), "--set=rollout.num_actors=90")
    done = subprocess.run(
        command("--address", head.job_server, *run_dir, *sets()),
        cwd=client_folder, env=head.environment, timeout=LIMIT_S, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert re.search(r"job \S+ ended as FAILED", done.stderr), done.stderr
    assert "CPUs" in done.stdout


def test_a_job_server_that_wants_another_token_is_told_in_one_line(
    head: Head, client_folder: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        command("--address", head.job_server, "--run-dir", str(tmp_path / "run")),
        cwd=client_folder, env=head.environment | {"RAY_AUTH_TOKEN": "0" * 64}, timeout=120,
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "wants another token" in line


@pytest.mark.prove  # Ray waits half a minute for an answer.
@pytest.mark.parametrize("token", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}])
def test_a_cluster_that_wants_another_token_is_not_taken_for_none(
    head: Head, tmp_path: Path, token: dict[str, str]
) -> None:
    job = train(tmp_path / "run", f"placement.address={head.address}")
    job.environment = head.environment | token
    done = job.start().finish(120)
    assert done.returncode == 2
    assert "it may want another token; set RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
    assert job.left_over() == []


@pytest.mark.prove  # Refused by the door that every run takes: tests/commands/test_bad_input.py.
def test_a_job_does_not_write_into_the_package_that_ray_deletes(
    head: Head, client_folder: Path
) -> None:
    subprocess.run(
        [
            RAY, "job", "submit", "--address", head.job_server, "--working-dir", ".", "--no-wait",
            "--submission-id", "packed", "--",
            "python3", "-m", "coop_rl", "train", CONFIG, "--set=placement.address=auto",
        ],
        cwd=client_folder, env=head.environment, timeout=120, check=True, capture_output=True,
    )  # fmt: skip
    job = wait_for_end(head, "packed")
    assert job["status"] == "FAILED"
    assert "lies in the job's package, which Ray deletes" in job["logs"]
