"""A run as a Ray job: submitted, followed, stopped, resumed and finished, from a clean client."""

import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coop_rl.commands.submit import plan_submission
from coop_rl.config import load_config
from tests.main_job.harness import ROOT, SMALL, metrics, train
from tests.main_job.job_client import ask, jobs
from tests.main_job.ray_head import RAY, Head, ray_head

pytestmark = pytest.mark.timeout(600)
CONFIG = "configs/local/demo.yaml"
LIMIT_S = 240
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
    given = (*SMALL, "method.kind=rl", "checkpoint.every=0", *more)
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


def test_a_job_is_submitted_followed_left_stopped_resumed_and_finished(
    head: Head, client_folder: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    given = sets("placement.environment=[COOP_RL_SEEN]")
    environment = head.environment | {"COOP_RL_SEEN": "yes", "COOP_RL_HIDDEN": "no"}

    # Submitted and followed by our command, until Ctrl-C; then stopped by Ray's client.
    followed = subprocess.Popen(
        command(
            "--address", head.job_server, "--run-dir", str(run_dir),
            *given, "--set=run.num_steps=400",
        ),
        # The address that was given counts, not the environment's.
        cwd=client_folder, env=environment | {"RAY_ADDRESS": NOBODY}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert followed.stdout is not None
    while not is_shown(2, 400, line := followed.stdout.readline()):
        assert line, followed.communicate()
    followed.send_signal(signal.SIGINT)
    _, errors = followed.communicate(timeout=60)
    ((name, job),) = jobs(head).items()
    assert followed.returncode == 130, errors
    assert f"job {name} goes on" in errors
    assert job["status"] == "RUNNING"
    assert job["variables"]["COOP_RL_SEEN"] == "yes"
    assert "COOP_RL_HIDDEN" not in job["variables"]
    assert head.environment["RAY_AUTH_TOKEN"] not in job["all"]
    shown = scraped(head, "ray_coop_rl_reward_mean")
    assert 'run="demo"' in shown
    assert ask(head, "stop", name)
    job = wait_for_end(head, name)
    assert job["status"] == "STOPPED"
    assert "interrupted" in job["logs"]
    steps = [row["step"] for row in metrics(run_dir) if "time/step_s" in row]
    assert list((run_dir / "checkpoints").glob("step-*")), job["logs"]

    done, num_steps = len(steps), len(steps) + 2

    # Submitted again as in Ray's own documentation: it resumes and ends.
    again = subprocess.run(
        [
            RAY, "job", "submit", "--address", head.job_server, "--working-dir", ".", "--",
            "python3", "-m", "coop_rl", "train", CONFIG, "--run-dir", str(run_dir),
            "--set=placement.address=auto", f"--set=run.num_steps={num_steps}", *sets(),
        ],
        cwd=client_folder, env=environment, timeout=LIMIT_S, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout[-3000:]
    assert f"resumes from {run_dir}/checkpoints/step-{done:06d}" in again.stdout.replace("\n", "")
    assert is_shown(num_steps, num_steps, again.stdout)
    assert not is_shown(done, num_steps, again.stdout)
    steps = [row["step"] for row in metrics(run_dir) if "time/step_s" in row]
    assert steps == list(range(num_steps))


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


def wait_for_end(head: Head, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while not (job := jobs(head)[name])["is_over"] and time.monotonic() < deadline:
        time.sleep(1)
    return job


def test_what_cannot_be_submitted_is_refused_in_one_line(
    head: Head, client_folder: Path, tmp_path: Path
) -> None:
    absolute = ("--run-dir", str(tmp_path / "run"))
    wrong_token = head.environment | {"RAY_AUTH_TOKEN": "0" * 64}
    cases = [
        ((), head.environment, "absolute run directory"),
        ((*absolute, "--working-dir", "tests"), head.environment, "not in the working directory"),
        ((*absolute, "--address", NOBODY), head.environment, "no Ray job server"),
        ((*absolute, "--address", head.job_server), wrong_token, "wants another token"),
        (
            (*absolute, "--set=placement.environment=[NOT_SET_ANYWHERE]"),
            head.environment,
            "NOT_SET_ANYWHERE, which is not set here",
        ),
        ((*absolute, "--set=placement.environment=[HF_TOKEN]"), head.environment, "a secret"),
    ]
    for arguments, environment, words in cases:
        done = subprocess.run(
            command(*arguments), cwd=client_folder, env=environment, timeout=120, text=True,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_submitted_job_starts_where_there_is_only_python3(tmp_path: Path) -> None:
    """As in vLLM's image, which docker/gpu.Dockerfile is built from."""
    config = load_config(ROOT / CONFIG)
    job = plan_submission(config, ROOT / CONFIG, (), tmp_path, ROOT)
    assert job.entrypoint.startswith("python3 -m coop_rl train ")


@pytest.mark.parametrize("token", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}])
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


def test_a_job_does_not_write_into_the_package_that_ray_deletes(
    head: Head, client_folder: Path
) -> None:
    entrypoint = f"python3 -m coop_rl train {CONFIG} --set=placement.address=auto"
    name = ask(head, "submit", entrypoint, str(client_folder))
    job = wait_for_end(head, name)
    assert job["status"] == "FAILED"
    assert "lies in the job's package, which Ray deletes" in job["logs"]
