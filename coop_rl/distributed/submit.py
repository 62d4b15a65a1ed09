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
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from coop_rl.config import RunConfig, config_files
from coop_rl.distributed.cluster import TOKEN_ADVICE, named_environment
from coop_rl.errors import Interrupted, ResourceError, RunDirectoryError, RunError, first_line

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Read by Ray's job supervisor: seconds between SIGTERM and SIGKILL."""
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
LOOK_S = 1.0
SILENCE_S = 120.0
"""A job that prints nothing for so long is asked whether it still runs."""
CONNECT_TIMEOUT_S = 10.0
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
    """Return the job of a config that lies in `working_dir`, as does the file it extends.

    Raises:
        RunDirectoryError: One of them is not there, or the run directory is not absolute.
        ResourceError: A named environment variable is not set.
    """
    root = working_dir.resolve()
    for file in config_files(path):
        if not file.resolve().is_relative_to(root):
            raise RunDirectoryError(
                f"{file} is not in the working directory {root}, which is all that travels; "
                "move it there, or set --working-dir"
            )
    folder = run_dir or Path(config.run.dir) / config.run.name
    if not folder.is_absolute():
        raise RunDirectoryError(
            f"a submitted run needs an absolute run directory that all nodes share, got {folder}: "
            "a relative one would lie in the package Ray deletes; set run.dir or --run-dir"
        )
    place = config.placement
    # Images without a virtual environment may lack `python`.
    command = ["python3", "-m", "coop_rl", "train", str(path.resolve().relative_to(root))]
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
    if address:
        # To Ray the environment counts more than what its client is given.
        for name in ADDRESS_VARIABLES:
            os.environ.pop(name, None)
    found = [address, *(os.environ.get(name) for name in ADDRESS_VARIABLES)]
    where = next((value for value in found if value), None)
    if not where:
        raise ResourceError(
            "no cluster to submit to; give --address http://HEAD:8265, or set RAY_ADDRESS"
        )
    url = urlsplit(where)
    try:
        if url.scheme in ("http", "https"):
            # Ray's client has no limit of its own.
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ResourceError(f"no Ray job server at {where}: {first_line(error)}") from None
    # Its packager tells of every ignored file.
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(where)
    except AuthenticationError:
        raise ResourceError(f"the cluster at {where} wants another token; {TOKEN_ADVICE}") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(f"no Ray job server at {where}: {first_line(error)}") from None


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
        Interrupted: The user stopped following; the job goes on.
    """
    try:
        name = client.submit_job(
            entrypoint=submission.entrypoint,
            submission_id=submission.submission_id,
            runtime_env=submission.runtime_env,
            **submission.resources,
        )
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"the job was refused: {first_line(error)}") from None
    write(f"job {name} is submitted; stop it, with a checkpoint: ray job stop {name}\n")
    if not wait:
        return
    try:
        info = asyncio.run(follow(client, name, write))
    except Interrupted:
        raise Interrupted(
            f"job {name} goes on; see it again: ray job logs --follow {name}, stop it: "
            f"ray job stop {name}"
        ) from None
    if info.status != JobStatus.SUCCEEDED:
        # Ray adds the end of the output, which was passed on.
        reason = (info.message or "no reason given").partition(", last available logs")[0]
        raise RunError(f"job {name} ended as {info.status}: {reason}; submit it again to resume")


async def follow(
    client: JobSubmissionClient, name: str, write: Callable[[str], None]
) -> JobDetails:
    """Pass a job's output on until it has ended, over lost connections too; return how it ended.

    Raises:
        RunError: The job server stayed away.
    """
    shown = failures = 0
    while True:
        shown = await _pass_on(client.tail_job_logs(name), shown, write)
        try:
            info = client.get_job_info(name)
            if info.status.is_terminal():
                return info
            failures = 0
        except (RuntimeError, OSError) as error:
            failures += 1
            if failures > RECONNECTS:
                raise RunError(
                    f"the job server is gone, job {name} may still run: {first_line(error)}"
                ) from None
        await asyncio.sleep(LOOK_S)


async def _pass_on(output: AsyncIterator[str], shown: int, write: Callable[[str], None]) -> int:
    """Write what was not shown yet, until the connection ends, breaks or is silent for too long.

    A new connection begins with the job's first line again. Returns the characters shown by now.
    """
    seen = 0
    with suppress(StopAsyncIteration, TimeoutError, RuntimeError, OSError, ClientError):
        while True:
            text = await asyncio.wait_for(anext(output), SILENCE_S)
            write(text[max(0, shown - seen) :])
            seen += len(text)
            shown = max(shown, seen)
    return shown
