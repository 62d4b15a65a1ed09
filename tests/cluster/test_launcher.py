"""Cluster-launcher files against Ray's own check, which `ray up` makes before it starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.label_utils import validate_label_key, validate_label_value
from ray.autoscaler._private.util import prepare_config, validate_config

LAUNCHER = Path(__file__).parents[2] / "cluster/launcher"
FILES = sorted(path.stem for path in LAUNCHER.glob("*.yaml"))


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((LAUNCHER / f"{name}.yaml").read_text())
    return config


def test_there_is_one_for_each_cloud_and_for_own_machines() -> None:
    assert FILES == ["aws", "azure", "gcp", "on-premise"]


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_it(name: str) -> None:
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", FILES)
def test_ray_notices_a_misspelt_key(name: str) -> None:
    with pytest.raises(Exception, match="idle_timeout_minuts"):
        validate_config(prepare_config(load(name) | {"idle_timeout_minuts": 5}))


@pytest.mark.parametrize("name", FILES)
def test_node_types_carry_the_roles_labels(name: str) -> None:
    roles = []
    for node_type in load(name).get("available_node_types", {}).values():
        for key, value in node_type["labels"].items():
            assert validate_label_key(key) is None
            assert validate_label_value(value) is None
        roles.append(node_type["labels"]["role"])
    assert roles == ([] if name == "on-premise" else ["head", "learner", "rollout"])


@pytest.mark.parametrize("name", FILES)
def test_the_job_server_is_not_public_and_stopped_jobs_get_their_time(name: str) -> None:
    start = " ".join(load(name)["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_AUTH_MODE=token" in start
    assert "RAY_JOB_STOP_WAIT_TIME_S=300" in start
    assert "RAY_AUTH_MODE=token" in " ".join(load(name)["worker_start_ray_commands"])
