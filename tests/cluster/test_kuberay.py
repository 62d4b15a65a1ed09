"""KubeRay manifests against the operator's own schemas (the CRDs' openAPIV3Schema, as data)."""

import json
import shlex
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from coop_rl.config import load_config
from coop_rl.config.roles import PlacementSection
from coop_rl.config.sizes import role_counts

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster/kuberay"
SCHEMAS = ROOT.parent / "shared/data/schemas"
KINDS = {"raycluster": "ray.io_v1_rayclusters", "rayjob": "ray.io_v1_rayjobs"}


def load(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((KUBERAY / f"{name}.yaml").read_text())
    return manifest


@cache
def read_schema(path: Path) -> jsonschema.Validator:
    """Return the operator's schema; whether it is one itself is the operator's business."""
    found = json.loads(path.read_text())
    validator: jsonschema.Validator = jsonschema.validators.validator_for(found)(found)
    return validator


def schema(name: str) -> jsonschema.Validator:
    path = SCHEMAS / f"{KINDS[name]}.schema.json"
    if not path.exists():
        pytest.skip(f"shared data: no {path.name}")
    return read_schema(path)


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = load(name)["spec"]
    inner: dict[str, Any] = spec if name == "raycluster" else spec["rayClusterSpec"]
    return inner


@pytest.mark.parametrize("name", KINDS)
def test_manifest_keeps_to_the_operators_schema(name: str) -> None:
    schema(name).validate(load(name))


@pytest.mark.parametrize("name", KINDS)
def test_the_schema_notices_a_misspelt_key(name: str) -> None:
    manifest = load(name)
    manifest["spec"]["rayVersoin"] = "2.60.0"
    with pytest.raises(jsonschema.ValidationError, match="rayVersoin"):
        schema(name).validate(manifest)


@pytest.mark.parametrize("name", KINDS)
def test_learners_are_fixed_and_rollouts_scale_from_none(name: str) -> None:
    groups = {group["groupName"]: group for group in cluster_spec(name)["workerGroupSpecs"]}
    learners, rollouts = groups["learners"], groups["rollouts"]
    assert learners["minReplicas"] == learners["replicas"] == learners["maxReplicas"]
    assert rollouts["minReplicas"] == 0 < rollouts["maxReplicas"]
    assert (learners["labels"], rollouts["labels"]) == ({"role": "learner"}, {"role": "rollout"})


@pytest.mark.parametrize("name", KINDS)
def test_clusters_ask_for_a_token_and_hold_no_secret(name: str) -> None:
    assert cluster_spec(name)["authOptions"] == {"mode": "token"}
    pods = [cluster_spec(name)["headGroupSpec"], *cluster_spec(name)["workerGroupSpecs"]]
    for pod in pods:
        spec = pod["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for variable in spec["containers"][0]["env"]:
            is_secret = "TOKEN" in variable["name"]
            assert is_secret == ("valueFrom" in variable), variable["name"]
            if is_secret:
                # The operator makes a Secret of the cluster's name, for Ray's token.
                secret = variable["valueFrom"]["secretKeyRef"]["name"]
                assert secret != load(name)["metadata"]["name"]


@pytest.mark.parametrize("name", KINDS)
def test_stopped_jobs_get_their_time(name: str) -> None:
    grace_s = PlacementSection().stop_grace_s
    for pod in (cluster_spec(name)["headGroupSpec"], *cluster_spec(name)["workerGroupSpecs"]):
        spec = pod["template"]["spec"]
        variables = {v["name"]: v.get("value") for v in spec["containers"][0]["env"]}
        assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == str(grace_s)
        assert spec["terminationGracePeriodSeconds"] == grace_s


@pytest.mark.parametrize("name", KINDS)
def test_the_run_of_16_gpus_fits_the_pods(name: str) -> None:
    """Each labelled role on the pods of its label, all of them together."""
    config = load_config(ROOT / "configs/cluster/16-gpus.yaml")
    asked: dict[str, Counter[str]] = {}
    for count, need in role_counts(config).values():
        if "role" in need.labels:
            total = Counter({"cpu": count * need.cpus, "nvidia.com/gpu": count * need.gpus})
            asked[need.labels["role"]] = asked.get(need.labels["role"], Counter()) + total
    assert sum(total["nvidia.com/gpu"] for total in asked.values()) == 16
    for group in cluster_spec(name)["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        total = asked.pop(group["labels"]["role"])
        for kind in total:
            assert total[kind] <= group["maxReplicas"] * float(limits[kind]), group["groupName"]
    assert asked == {}


def test_both_manifests_describe_the_same_cluster() -> None:
    assert cluster_spec("raycluster") == cluster_spec("rayjob")


def test_the_jobs_roles_have_devices_and_lie_on_the_pods_for_them() -> None:
    """The image holds a vLLM for GPUs, and an actor that reserves none sees none."""
    job = load("rayjob")["spec"]
    words = shlex.split(job["entrypoint"])
    sets = [value for word, value in pairwise(words) if word == "--set"]
    place = load_config(ROOT / words[2], sets).placement
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    roles = {group["labels"]["role"] for group in groups}
    for resources in (place.rollout, place.learner, place.shadow):
        assert resources is not None
        assert resources.gpus >= 1
        assert resources.labels["role"] in roles
