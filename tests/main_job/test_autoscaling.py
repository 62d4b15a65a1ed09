"""Rollout nodes come when a run asks for more actors than fit, and go when it is over."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train
from tests.main_job.ray_head import Head, ray_head

pytestmark = [pytest.mark.prove, pytest.mark.timeout(600)]
ROLLOUT = {"resources": {"CPU": 1}, "labels": {"role": "rollout"}, "max_workers": 3}
GONE_WITHIN_S = 90


def nodes(head: Head) -> dict[str, str]:
    """Return {id: role} of the nodes alive, asked by a process with the cluster's token."""
    ask = (
        "import json, ray, sys; ray.init(address=sys.argv[1], log_to_driver=False);"
        "print(json.dumps({n['NodeID']: n['Labels'].get('role', 'head')"
        " for n in ray.nodes() if n['Alive']}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask, head.address],
        env=head.environment, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_run_grows_the_cluster_uses_the_new_nodes_and_lets_them_go(
    tmp_path: Path,
) -> None:
    with ray_head({"rollout": ROLLOUT}) as head:
        assert list(nodes(head).values()) == ["head"]
        common = (
            f"placement.address={head.address}",
            "placement.rollout={cpus: 1, strategy: strict_spread, labels: {role: rollout}}",
            "run.num_steps=2",
            "checkpoint.every=0",
        )

        def run(name: str, num_actors: int) -> "subprocess.CompletedProcess[str]":
            job = train(tmp_path / name, *common, f"rollout.num_actors={num_actors}")
            job.environment = head.environment
            return job.start().finish(400)

        refused = run("refused", 4)
        assert refused.returncode == 2
        assert "its autoscaler may not add enough" in " ".join(refused.stderr.split())

        done, run_dir = run("run", 2), tmp_path / "run"
        assert done.returncode == 0, done.stderr[-2000:]
        places = json.loads((run_dir / "actors.json").read_text())
        used = {places[f"rollout-{i}"]["node_id"] for i in range(2)}
        assert len(used) == 2
        assert len([row for row in metrics(run_dir) if "reward/mean" in row]) == 2

        deadline = time.monotonic() + GONE_WITHIN_S
        while len(alive := nodes(head)) > 1 and time.monotonic() < deadline:
            time.sleep(1)
        assert list(alive.values()) == ["head"]
        assert used.isdisjoint(alive)
