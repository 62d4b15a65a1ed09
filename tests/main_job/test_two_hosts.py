"""Training over a network path between two hosts, which is cut for a moment, and then for good."""

import json
import tempfile
import time
from pathlib import Path

import pytest

from tests.main_job.harness import Job, metrics, train, wait_for_step
from tests.main_job.hosts import PORT, Host, two_hosts

pytestmark = [pytest.mark.prove, pytest.mark.timeout(600)]
SETS = (
    "placement.rollout={cpus: 1, labels: {role: rollout}}",
    "placement.learner={cpus: 0.5, labels: {role: learner}}",
    "placement.shadow={cpus: 0.5, labels: {role: learner}}",
    "sync.timeout_s=20",
    "sync.backend=gloo",  # the hosts are one machine, whose memory they could share
    "checkpoint.every=1",
    "recovery.restarts=0",
    "run.num_steps=8",
    # Else it would wait for a node like the lost one, and go on there.
    "recovery.rollout_restarts=0",
)
SHORT_CUT_S = 3.0


def start_worker(host: Host, head: Host) -> None:
    host.start_ray(f"--address={head.address}:{PORT}", "--num-cpus=1", "--labels=role=rollout")
    head.wait_for_nodes(2)


def test_a_short_cut_is_waited_out_and_a_long_one_ends_the_run_which_then_resumes(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    with two_hosts() as (head, worker), tempfile.TemporaryDirectory(prefix="nt", dir="/tmp") as tmp:
        head.start_ray(
            "--head", f"--port={PORT}", "--num-cpus=1", "--labels=role=learner",
            f"--temp-dir={tmp}/r", "--include-dashboard=false",
        )  # fmt: skip
        start_worker(worker, head)

        def started() -> Job:
            job = train(run_dir, f"placement.address={head.address}:{PORT}", *SETS)
            job.prefix, job.environment = head.prefix, head.environment
            return job.start()

        job = started()
        wait_for_step(run_dir, 1, process=job.process)
        before = worker.received_bytes()
        worker.cut()
        time.sleep(SHORT_CUT_S)
        worker.heal()
        wait_for_step(run_dir, 3, process=job.process)
        rows = [row for row in metrics(run_dir) if "reward/mean" in row]
        assert worker.received_bytes() - before > rows[-1]["sync/bytes"]

        worker.cut()
        done = job.finish(200)
        assert done.returncode == 1
        assert "rollout-0" in done.stderr, done.stderr[-2000:]
        status = json.loads((run_dir / "run.json").read_text())
        assert status["status"] == "failed"

        worker.heal()
        start_worker(worker, head)
        done = started().finish(300)
        assert done.returncode == 0, done.stderr[-2000:]
    places = json.loads((run_dir / "actors.json").read_text())
    assert places["rollout-0"]["address"] == worker.address
    assert places["learner-joint-0"]["address"] == head.address
    steps = [row["step"] for row in metrics(run_dir) if "reward/mean" in row]
    assert steps == list(range(8))
