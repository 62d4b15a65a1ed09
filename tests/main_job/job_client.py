"""Ray's job server over HTTP: Ray's own client reads the token once, when it is imported."""

import json
import time
import urllib.request
from typing import Any

from tests.main_job.ray_head import Head

LIMIT_S = 240
ENDS = ("SUCCEEDED", "FAILED", "STOPPED")


def ask(head: Head, path: str = "", method: str = "GET") -> Any:
    """Return the server's answer to one request about jobs."""
    request = urllib.request.Request(
        f"{head.job_server}/api/jobs/{path}",
        method=method,
        headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def jobs(head: Head) -> dict[str, dict[str, Any]]:
    """Return all that is known of every submitted job, by name."""
    return {job["submission_id"]: job for job in ask(head) if job["submission_id"]}


def wait_for_end(head: Head, name: str) -> dict[str, Any]:
    """Return a job once it is over, with its `logs`."""
    deadline = time.monotonic() + LIMIT_S
    while (job := jobs(head)[name])["status"] not in ENDS and time.monotonic() < deadline:
        time.sleep(0.5)
    return job | ask(head, f"{name}/logs")
