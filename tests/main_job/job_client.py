"""Ray's Python job client in a process of its own: Ray reads the token when it is imported.

python -m tests.main_job.job_client ADDRESS jobs|stop|submit [ID | ENTRYPOINT FOLDER]
"""

import json
import subprocess
import sys
from typing import Any

from tests.main_job.harness import ROOT
from tests.main_job.ray_head import Head


def ask(head: Head, *arguments: str) -> Any:
    """Return the client's answer to one request."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.main_job.job_client", head.job_server, *arguments],
        cwd=ROOT, env=head.environment, check=True, timeout=120, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def jobs(head: Head) -> dict[str, dict[str, Any]]:
    """Return status, variables and logs of every job, by name."""
    found: dict[str, dict[str, Any]] = ask(head, "jobs")
    return found


def main() -> None:
    """Answer."""
    from ray.job_submission import JobSubmissionClient

    address, request, *rest = sys.argv[1:]
    client = JobSubmissionClient(address)
    answer: Any
    if request == "stop":
        answer = client.stop_job(rest[0])
    elif request == "submit":
        answer = client.submit_job(entrypoint=rest[0], runtime_env={"working_dir": rest[1]})
    else:
        answer = {
            str(job.submission_id): {
                "status": job.status,
                "is_over": job.status.is_terminal(),
                "all": str(job),
                "variables": (job.runtime_env or {}).get("env_vars", {}),
                "logs": client.get_job_logs(str(job.submission_id)),
            }
            for job in client.list_jobs()
            if job.submission_id
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
