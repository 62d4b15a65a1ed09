"""What the method offers beyond its defaults, together, on the real stack.

Each run ends with a fault between roles that the run itself finds: see faulty_learners.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.main_job.faulty_learners import fault_in_sending, run_until_fault, stale_adapter
from tests.main_job.harness import metrics
from tests.support.nodes import cluster_of, labels_of_nodes

PROVING = ("sync.canary_every=1", "sync.timeout_s=30")
ON_NODES = (
    "placement.rollout={cpus: 1, labels: {role: rollout}}",
    "placement.learner={cpus: 0.4, labels: {role: learner}}",
    "placement.shadow={cpus: 0.4, labels: {role: learner}}",
    "placement.meta={cpus: 0.2, labels: {role: learner}}",
)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes for rollouts and one for what trains, besides an empty head."""
    with cluster_of(("rollout", "rollout", "learner")) as started:
        yield started


@pytest.fixture
def two_sources(tmp_path: Path) -> Path:
    """Demonstrations of the demo, every second one with a wrong answer."""
    rows = [
        json.loads(line)
        for line in Path("configs/local/demo/demonstrations.jsonl").read_text().splitlines()
    ]
    for index, row in enumerate(rows):
        row["origin"] = ("good", "bad")[index % 2]
        if index % 2:
            row["answer"] = str(int(row["answer"]) + 1)
    path = tmp_path / "two_sources.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.timeout(420)
def test_all_guidance_over_nodes_with_a_shadow_that_samples_for_itself_until_an_engine_is_stale(
    tmp_path: Path, two_sources: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = labels_of_nodes(cluster.address)
    ended = run_until_fault(
        monkeypatch,
        tmp_path / "run",
        fault_in_sending("stale", num_good_steps=4),
        *PROVING,
        "run.num_steps=6",
        "method.rl.kind=grpo",
        "method.rl.kl.weight=0.01",
        "meta.guidance=[adapter,mix,demonstrations]",
        f"demonstrations.path={two_sources}",
        "demonstrations.source_column=origin",
        "shadow.num_rollout_actors=1",
        f"placement.address={cluster.address}",
        *ON_NODES,
        "shadow.rollouts=own",
        "gain.audit_every=2",
        "gain.audit_prompts=8",
    )
    assert re.search(
        r"rollout-0 does not compute with the weights published as theta5\.adapter5: .*"
        r"it holds another model\.embed_tokens\.weight and \d+ more",
        ended,
    ), ended
    rows = metrics(tmp_path / "run")
    steps = [row for row in rows if "grad/norm" in row]
    assert len(steps) == 4
    assert all(row["sync/canary_mean"] < 1e-4 for row in steps)
    assert all(row["gain/fresh"] == 1 for row in steps)
    assert all(row["tokens/generated_shadow"] > 0 for row in steps)
    assert all(row["guidance/update_norm"] > 0 for row in steps)
    assert all(row["gain/kl_gap"] is not None for row in steps)
    assert steps[0]["policy/kl_ref"] == pytest.approx(0.0, abs=1e-6)
    assert all(
        {"guidance/product/rl", "guidance/product/good", "guidance/product/bad"} <= row.keys()
        for row in steps[2:]
    )
    for row in steps:
        weights = [row["guidance/weight/good"], row["guidance/weight/bad"]]
        assert sum(weights) == pytest.approx(1.0)
    assert steps[-1]["guidance/mix"] != steps[0]["guidance/mix"] == 0.5
    assert steps[-1]["guidance/weight/good"] != 0.5
    audits = [row for row in rows if "gain/audit" in row]
    assert [row["step"] for row in audits] == [2, 4]
    assert all(-1 <= row["gain/audit"] <= 1 and row["gain/audit_stderr"] >= 0 for row in audits)
    places = json.loads((tmp_path / "run/actors.json").read_text())
    assert {name: roles[place["node_id"]] for name, place in places.items()} == {
        "rollout-0": "rollout",
        "rollout-shadow-0": "rollout",
        "learner-joint-0": "learner",
        "learner-shadow-0": "learner",
        "meta-controller": "learner",
        # It reserves nothing, so that Ray chooses.
        "reward": roles[places["reward"]["node_id"]],
    }
    assert places["rollout-0"]["node_id"] != places["rollout-shadow-0"]["node_id"]


@pytest.mark.prove  # its parts are in tests/whole_loop, tests/learner and tests/driver
@pytest.mark.timeout(420)
def test_several_updates_a_batch_and_the_best_checkpoint_until_a_w_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = run_until_fault(
        monkeypatch,
        tmp_path / "run",
        stale_adapter(num_good_steps=4),
        *PROVING,
        "run.num_steps=6",
        "method.rl.kind=dapo",
        "method.rl.entropy_weight=0.001",
        "method.rl.max_refills=2",
        "learner.num_minibatches=2",
        "learner.num_epochs=2",
        "learner.lr_schedule=cosine",
        "adapter.lr_schedule=linear",
        "adapter.max_update_norm=0.001",
        "evaluation.every=1",
        "evaluation.num_demonstrations=8",
        "checkpoint.best=eval/demonstrations/nll",
        "checkpoint.every=1",
        "checkpoint.keep=1",
    )
    assert re.search(
        r"learner-shadow-0 holds another w than the meta-controller pushed: model\.\S+lora_A", ended
    ), ended
    rows = metrics(tmp_path / "run")
    steps = [row for row in rows if "grad/norm" in row]
    assert [row["ledger/updates"] for row in steps] == [4, 8, 12, 16]
    assert all(row["guidance/update_norm"] <= 0.00101 for row in steps)
    assert any(row["groups/dropped"] > 0 for row in steps)
    assert any(row["policy/clip_fraction"] > 0 for row in steps)
    nll = {r["step"]: r["eval/demonstrations/nll"] for r in rows if "eval/sums/pass@1" in r}
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())
    lowest = min((step for step in nll if step), key=lambda step: nll[step])
    assert best == {"step": lowest, "metric": "eval/demonstrations/nll", "value": nll[lowest]}
    kept = {path.name for path in (tmp_path / "run/checkpoints").glob("step-*")}
    assert kept == {"step-000004", f"step-{lowest:06d}"}
