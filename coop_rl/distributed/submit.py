"""`coop-rl submit`: the run as a Ray job, followed to its end; no more than Ray's job client does.

    working directory --package--> job server --> driver: coop-rl train CONFIG --> actors

What is set is what Ray would get wrong: the run joins the cluster it is submitted to, Ray waits for
its checkpoint when it is stopped (3 s otherwise), and only named environment variables travel.
Submitting the same run again resumes it.
"""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from coop_rl.config import RunConfig
from coop_rl.distributed.cluster import named_environment
from coop_rl.errors import ResourceError, RunDirectoryError, RunError

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Read by Ray's job supervisor: seconds between SIGTERM and SIGKILL."""
LOOK_S = 1.0
RECONNECTS = 30
"""How often in a row the job server may be away while a job is followed; a second apart."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What Ray's job server is given."""

    entrypoint: str
    submission_id: str
    runtime_env: dict[str, Any]
    resources: dict[str, Any]


def plan_submission(
    config: RunConfig,
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    working_dir: Path,
) -> Submission:
    """Return the job of a config that lies in `working_dir`.

    Raises:
        RunDirectoryError: The config is not in `working_dir`, or the run directory is not absolute.
        ResourceError: A named environment variable is not set.
    """
    root = working_dir.resolve()
    if not path.resolve().is_relative_to(root):
        raise RunDirectoryError(
            f"{path} is not in the working directory {root}, which is all that travels; "
            "move it there, or set --working-dir"
        )
    folder = run_dir or Path(config.run.dir) / config.run.name
    if not folder.is_absolute():
        raise RunDirectoryError(
            f"a submitted run needs an absolute run directory that all nodes share, got {folder}: "
            "a relative one would lie in the package Ray deletes; set run.dir or --run-dir"
        )
    place = config.placement
    command = ["python", "-m", "coop_rl", "train", str(path.resolve().relative_to(root))]
    sets = [*overrides, *([] if place.address else ["placement.address=auto"])]
    command += [f"--set={value}" for value in sets]
    command += ["--run-dir", str(folder)]
    environment = named_environment(place.environment) | {
        STOP_WAIT: str(place.stop_grace_s),
        "PYTHONUNBUFFERED": "1",
    }
    resources = {
        "entrypoint_num_cpus": place.driver.cpus or None,
        "entrypoint_num_gpus": place.driver.gpus or None,
        "entrypoint_label_selector": dict(place.driver.labels) or None,
    }
    return Submission(
        shlex.join(command),
        f"{config.run.name}-{time.strftime('%Y%m%d-%H%M%S')}",
        {"working_dir": str(root), "env_vars": environment},
        {name: value for name, value in resources.items() if value is not None},
    )


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of the cluster's job server; the token is Ray's own (RAY_AUTH_TOKEN...).

    Raises:
        ResourceError: Nobody answers there, or it does not accept the token.
    """
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not where:
        raise ResourceError(
            "no cluster to submit to; give --address http://HEAD:8265, or set RAY_ADDRESS"
        )
    # Its packager tells of every ignored file.
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(where)
    except AuthenticationError:
        raise ResourceError(
            f"the cluster at {where} wants another token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"no Ray job server at {where}: {_first_line(error)}") from None


def submit(
    client: JobSubmissionClient, submission: Submission, write: Callable[[str], None], *, wait: bool
) -> None:
    """Submit a job and, with `wait`, follow it to its end.

    Args:
        client: Of the cluster's job server.
        submission: The job.
        write: Gets the job's output as it comes.
        wait: Whether to follow it.

    Raises:
        ResourceError: The job server refused it.
        RunError: The job failed or was stopped.
    """
    try:
        name = client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.submission_id,
            runtime_env=submission.runtime_env,
            **submission.resources,
        )
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"the job was refused: {_first_line(error)}") from None
    write(f"job {name} is submitted; stop it, with a checkpoint: ray job stop {name}\n")
    if not wait:
        return
    try:
        asyncio.run(_follow(client, name, write))
    finally:
        write(f"see it again: ray job logs --follow {name}\n")
    info = client.get_job_info(name)
    if info.status != JobStatus.SUCCEEDED:
        raise RunError(
            f"job {name} ended as {info.status}: {(info.message or '').strip()[:300]} "
            "Submit it again to resume"
        )


async def _follow(client: JobSubmissionClient, name: str, write: Callable[[str], None]) -> None:
    """Pass the output on until the job has ended, over lost connections too."""
    shown = failures = 0
    while True:
        seen = 0
        with suppress(RuntimeError, ConnectionError, OSError):
            async for text in client.tail_job_logs(name):
                # A new connection begins with the first line again.
                write(text[max(0, shown - seen) :])
                seen += len(text)
                shown, failures = max(shown, seen), 0
        try:
            if client.get_job_status(name).is_terminal():
                return
            failures = 0
        except (RuntimeError, ConnectionError, OSError) as error:
            failures += 1
            if failures > RECONNECTS:
                raise RunError(
                    f"the job server is gone, job {name} may still run: {_first_line(error)}"
                ) from None
        await asyncio.sleep(LOOK_S)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
