"""Following a job whose connection breaks; a job server that works is in tests/main_job."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

from coop_rl.distributed import jobs
from coop_rl.errors import ResourceError, RunError

CHUNKS = ("starting\n", "step 1\n", "step 2\n", "step 3\n")


@dataclass
class BreakingServer:
    """Every connection begins with the first line; the n-th breaks after n + 1 chunks."""

    num_connections: int = 0
    is_silent: bool = False
    is_gone: bool = False
    asked: list[str] = field(default_factory=list)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.num_connections += 1
        for chunk in CHUNKS[: self.num_connections]:
            yield chunk
        if self.is_silent and self.num_connections < len(CHUNKS):
            await asyncio.sleep(3600)
        if self.num_connections < len(CHUNKS):
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, name: str) -> JobDetails:
        self.asked.append(name)
        if self.is_gone:
            raise ConnectionError("nobody there")
        is_over = self.num_connections >= len(CHUNKS)
        status = JobStatus.SUCCEEDED if is_over else JobStatus.RUNNING
        details: JobDetails = JobDetails(type=JobType.SUBMISSION, status=status, entrypoint="x")
        return details


def follow(server: BreakingServer) -> tuple[JobDetails, str]:
    written: list[str] = []
    client = cast("JobSubmissionClient", cast("Any", server))
    return asyncio.run(jobs.follow(client, "job", written.append)), "".join(written)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_S", 0.01)
    monkeypatch.setattr(jobs, "SILENCE_S", 0.05)


@pytest.mark.parametrize("is_silent", [False, True])
def test_each_line_is_written_once_over_lost_and_silent_connections(is_silent: bool) -> None:
    info, written = follow(BreakingServer(is_silent=is_silent))
    assert written == "".join(CHUNKS)
    assert info.status == JobStatus.SUCCEEDED


def test_a_job_server_that_stays_away_is_given_up() -> None:
    server = BreakingServer(is_gone=True)
    with pytest.raises(RunError, match="job server is gone, job job may still run: nobody there"):
        follow(server)
    assert len(server.asked) == jobs.RECONNECTS + 1


@pytest.mark.parametrize(("code", "is_advised"), [(1, True), (2, False), (None, True)])
def test_a_job_whose_input_was_wrong_is_not_to_be_submitted_again(
    code: int | None, is_advised: bool
) -> None:
    class Ended(BreakingServer):
        def submit_job(self, **_: object) -> str:
            return "job"

        def get_job_info(self, name: str) -> JobDetails:
            details: JobDetails = JobDetails(
                type=JobType.SUBMISSION,
                status=JobStatus.FAILED,
                entrypoint="x",
                driver_exit_code=code,
            )
            return details

    client, job = cast(JobSubmissionClient, Ended()), jobs.Submission("x", "job", {}, {})
    with pytest.raises(RunError, match="job job ended as FAILED") as caught:
        jobs.submit(client, job, lambda _: None, wait=True)
    assert ("submit it again" in str(caught.value)) is is_advised


def test_a_large_working_directory_is_refused_with_what_is_large_in_it(tmp_path: Path) -> None:
    sizes = {"models/a/w.bin": 90, "models/b.bin": 20, "data/x": 3, "runs/y": 500, "z/ignored": 500}
    for name, mib in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(mib * jobs.MIB)
    (tmp_path / ".rayignore").write_text("/runs/\n")
    (tmp_path / ".gitignore").write_text("ignored\n")
    with pytest.raises(ResourceError) as caught:
        jobs.refuse_large(tmp_path)
    said = "has 113 MiB to send, a Ray job server takes 100; the largest, in MiB: /models/ 110, "
    assert said + "/models/a/w.bin 90, /models/b.bin 20" in str(caught.value)
    assert f"a line each in {tmp_path / '.rayignore'}" in str(caught.value)
    (tmp_path / ".rayignore").write_text("/runs/\n/models/a/\n")
    jobs.refuse_large(tmp_path)
