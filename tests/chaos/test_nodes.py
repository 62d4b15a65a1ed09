"""Nodes come, say that they go, and are lost, under a run of `rollout.num_actors: {min, max}`."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from coop_rl.metric_names import NUM_ROLLOUTS
from coop_rl.observability.losses import read_status
from tests.chaos.conftest import OUTCOMES, OVERRIDES, Outcome
from tests.chaos.faults import recorded
from tests.chaos.struck import StruckJob, wait
from tests.main_job.harness import metrics
from tests.main_job.test_overlap import first_prompts, trained_prompts
from tests.support.nodes import cluster_of

ROLES = (
    "placement.rollout={cpus: 1, labels: {role: rollout}}",
    "placement.learner={cpus: 0.5, labels: {role: learner}}",
    "placement.shadow={cpus: 0.5, labels: {role: learner}}",
    "rollout.num_actors={min: 1, max: 2}",
    "recovery.restarts=0",
    "recovery.rollout_restarts=1",
    "checkpoint.every=0",
    # More than anybody waits for: the run is stopped when all has been seen.
    "run.num_steps=2000",
    "sync.canary_every=1",
)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node for learners, one for rollouts; an empty head."""
    with cluster_of(("learner", "rollout")) as started:
        yield started


def node_of(run_dir: Path, actor: str) -> str:
    node: str = json.loads((run_dir / "actors.json").read_text())[actor]["node_id"]
    return node


def announce_end(cluster: Cluster, node_id: str) -> None:
    """Do what a spot node's agent, or the autoscaler, does."""
    raylet: Any = ray._raylet
    messages: Any = autoscaler_pb2
    store = raylet.GcsClient(address=cluster.address)
    reason = messages.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = store.drain_node(node_id, reason, "a test", 0)
    assert accepted, why


def kill_node(cluster: Cluster, node_id: str) -> None:
    """Kill a node, and all that runs on it, as a machine that loses its power does."""
    (node,) = (one for one in cluster.worker_nodes if one._node_id == node_id)
    for started in node.all_processes["raylet"]:
        raylet = psutil.Process(started.process.pid)
        for process in [*raylet.children(recursive=True), raylet]:
            process.kill()


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_actors_come_and_go_with_nodes(cluster: Cluster, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    address = f"placement.address={cluster.address}"
    job = StruckJob.of(run_dir, *OVERRIDES, *ROLES, address).start()

    def told(name: str, who: str, text: str) -> None:
        began, outcome = time.monotonic(), Outcome(name, steps_repeated=0)
        OUTCOMES.append(outcome)
        count = job.count(f"{who} {text}")
        seen = wait(lambda: job.count(f"{who} {text}") > count, job) - began
        outcome.detected_in = outcome.recovered_in = f"{seen:.1f} s"

    def goes_on() -> None:
        last = recorded(run_dir)
        wait(lambda: recorded(run_dir) > last + 1, job)

    wait(lambda: recorded(run_dir) >= 1, job)
    assert metrics(run_dir)[-1][NUM_ROLLOUTS] == 1
    second = cluster.add_node(num_cpus=1, labels={"role": "rollout"})
    told("a node joins", "rollout-1", "has joined: 2 of at most 2 rollout actors sample")
    assert node_of(run_dir, "rollout-1") == second._node_id
    goes_on()
    assert metrics(run_dir)[-1][NUM_ROLLOUTS] == 2

    first = node_of(run_dir, "rollout-0")
    announce_end(cluster, first)
    told("a node's end is announced", "rollout-0", "has left, the end of its node was announced")
    goes_on()
    assert metrics(run_dir)[-1][NUM_ROLLOUTS] == 1
    cluster.add_node(num_cpus=1, labels={"role": "rollout"})
    told("another comes", "rollout-0", "has joined: 2 of at most 2 rollout actors sample")
    assert node_of(run_dir, "rollout-0") != first

    kill_node(cluster, second._node_id)
    told("a node is lost", "lost rollout-1,", "which is replaced")
    goes_on()
    assert job.process is not None
    job.process.send_signal(signal.SIGINT)
    done = job.finish(200)
    assert done.returncode == 130, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert read_status(run_dir).get("losses") in (None, [])
    rows = [row for row in metrics(run_dir) if "time/step_s" in row]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    # The canary compared every engine, those that came too, with the learner at every sync.
    assert all(row["sync/canary_mean"] < 1e-3 for row in rows)
    assert trained_prompts(run_dir) == first_prompts(len(rows))
    left = job.leavings()
    for outcome in OUTCOMES[-4:]:
        outcome.prompts_lost = outcome.prompts_trained_twice = 0
        outcome.left_behind = len(left)
