"""Ray's job server: submitting a job and following it; called by `commands.submit`."""

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError
from ray._private.ray_constants import (
    DASHBOARD_CLIENT_MAX_SIZE,
    RAY_RUNTIME_ENV_IGNORE_GITIGNORE,
)
from ray._private.runtime_env.packaging import _dir_travel
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from coop_rl.distributed.cluster import TOKEN_ADVICE
from coop_rl.errors import Interrupted, ResourceError, RunError, first_line

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
LOOK_S = 1.0
"""How long to wait, after a connection ended, before the job's output is asked for again."""
SILENCE_S = 120.0
"""A job that prints nothing for so long is asked whether it still runs."""
CONNECT_TIMEOUT_S = 10.0
"""How long the job server may take to accept a connection."""
WRONG_INPUT = 2
"""Exit code of a run whose input is wrong, as it will be the next time."""
MIB = 2**20
LARGEST = 5
"""How many of a large working directory's files and folders are named."""
RECONNECTS = 30
"""How often in a row the job server may be away while a job is followed, `LOOK_S` apart."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What Ray's job server is given."""

    entrypoint: str
    submission_id: str
    runtime_env: dict[str, Any]
    """The working directory and the environment variables of the driver."""
    resources: dict[str, Any]
    """What the driver reserves, as arguments of `submit_job`."""


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


def refuse_large(folder: Path) -> None:
    """Refuse a working directory that the job server would not take.

    Raises:
        ResourceError: Names the largest things in it, and how to leave them out.
    """
    sizes: dict[Path, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    has_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    _dir_travel(folder, [], add, has_gitignore, logging.getLogger(__name__))
    total = sum(sizes.values())
    if total <= DASHBOARD_CLIENT_MAX_SIZE:
        return
    parts: Counter[str] = Counter()
    for path, size in sizes.items():
        inside = path.relative_to(folder).parts
        # A file by itself, and the folder at the top that it lies in.
        parts["/" + "/".join(inside)] += size
        if len(inside) > 1:
            parts[f"/{inside[0]}/"] += size
    largest = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in parts.most_common(LARGEST))
    raise ResourceError(
        f"the working directory {folder} has {total / MIB:,.0f} MiB to send, a Ray job server "
        f"takes {DASHBOARD_CLIENT_MAX_SIZE / MIB:,.0f}; the largest, in MiB: {largest}; leave out "
        f"what the run does not need, a line each in {folder / '.rayignore'}, or put it on storage "
        "that all nodes share"
    )


def submit(
    client: JobSubmissionClient, submission: Submission, write: Callable[[str], None], *, wait: bool
) -> None:
    """Submit a job and, with `wait`, follow it to its end.

    Args:
        client: Speaks to the cluster's job server.
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
        advice = "" if info.driver_exit_code == WRONG_INPUT else "; submit it again to resume"
        raise RunError(f"job {name} ended as {info.status}: {reason}{advice}")


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
