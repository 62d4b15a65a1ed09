"""A run over several nodes: roles where the config says, weights and w across them; its end."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.main_job.harness import DEMO, Job, metrics, train, wait_for_step
from tests.support.nodes import cluster_of, labels_of_nodes

# Where roles lie, and weights over nodes, are in test_method_in_full; who is lost, in parts, in
# tests/distributed and tests/commands.
pytestmark = [pytest.mark.prove, pytest.mark.timeout(600)]
ROLES = (
    "placement.rollout={cpus: 1, strategy: strict_spread, labels: {role: rollout}}",
    "placement.learner={cpus: 0.5, strategy: strict_pack, labels: {role: learner}}",
    "placement.shadow={cpus: 0.5, strategy: strict_pack, labels: {role: learner}}",
    "placement.meta={cpus: 0.5, labels: {role: meta}}",
    "rollout.num_actors=2",
    "sync.canary_every=1",
    "run.num_steps=200",
    "checkpoint.every=0",
    "sync.timeout_s=20",
    "recovery.restarts=0",
)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes for rollouts, one for learners, one for the meta-controller; an empty head."""
    with cluster_of(("rollout", "rollout", "learner", "meta")) as started:
        yield started


def test_roles_lie_where_the_config_says_weights_cross_nodes_and_a_lost_learner_is_named(
    cluster: Cluster, tmp_path: Path
) -> None:
    roles = labels_of_nodes(cluster.address)
    address = f"--set=placement.address={cluster.address}"
    elsewhere = f"--set=run.dir={tmp_path / 'runs'}"
    looked = Job(["doctor", str(DEMO), address, elsewhere, "--quick", "--json"]).start().finish()
    assert looked.returncode == 0, looked.stderr[-2000:]
    findings = [finding for finding in json.loads(looked.stdout) if "node" in finding["check"]]
    assert [finding["status"] for finding in findings] == ["ok"] * 4 * 5
    assert list((tmp_path / "runs").iterdir()) == []

    run_dir = tmp_path / "run"
    job = train(run_dir, f"placement.address={cluster.address}", *ROLES).start()
    wait_for_step(run_dir, 2, timeout_s=400, process=job.process)
    places = json.loads((run_dir / "actors.json").read_text())
    actors = [psutil.Process(place["pid"]) for place in places.values()]
    everyone = [*actors, *(child for a in actors for child in a.children(recursive=True))]
    psutil.Process(places["learner-joint-0"]["pid"]).kill()
    done = job.finish(90)
    assert done.returncode == 1
    assert "learner-joint-0" in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert job.left_over() == []
    _, left = psutil.wait_procs(everyone, timeout=15)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
    # Where the reward actor lies, which reserves nothing, is Ray's choice: maybe on the head.
    used = len({place["node_id"] for place in places.values()})
    assert used in (4, 5)
    assert f"on {used} nodes" in " ".join(done.stderr.split()) + " ".join(done.stdout.split())
    found = {name: roles[place["node_id"]] for name, place in places.items() if name != "reward"}
    assert found == {
        "rollout-0": "rollout",
        "rollout-1": "rollout",
        "learner-joint-0": "learner",
        "learner-shadow-0": "learner",
        "meta-controller": "meta",
    }
    assert places["rollout-0"]["node_id"] != places["rollout-1"]["node_id"]
    rows = [row for row in metrics(run_dir) if "reward/mean" in row]
    assert [row["step"] for row in rows[:3]] == [0, 1, 2]
    # Every sync was proved by the canary on both engines, and w moved on and arrived.
    assert all(row["sync/bytes"] > 0 and row["sync/canary_mean"] < 1e-3 for row in rows)
    assert all(row["guidance/update_norm"] > 0 for row in rows)
