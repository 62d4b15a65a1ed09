"""Cluster-launcher files against Ray's own check, which `ray up` makes before it starts."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.label_utils import validate_label_key, validate_label_value
from ray.autoscaler._private.util import prepare_config, validate_config

from coop_rl.config.roles import PlacementSection

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
    assert f"RAY_JOB_STOP_WAIT_TIME_S={PlacementSection().stop_grace_s} " in start
    assert "RAY_AUTH_MODE=token" in " ".join(load(name)["worker_start_ray_commands"])


@pytest.mark.parametrize("name", FILES)
def test_the_shared_folder_is_mounted_in_the_container(name: str) -> None:
    assert "-v /mnt/coop-rl:/mnt/coop-rl" in load(name)["docker"]["run_options"]


@pytest.mark.parametrize(
    ("number", "role"), [("2", "learner"), ("3", "rollout"), ("21", "rollout")]
)
def test_own_machines_carry_the_roles_labels(tmp_path: Path, number: str, role: str) -> None:
    commands = load("on-premise")
    assert "--labels=role=head" in " ".join(commands["head_start_ray_commands"])
    for tool, text in {"ray": 'echo "$@"', "hostname": f"echo 172.17.0.1 10.0.0.{number}"}.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / tool).chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "RAY_HEAD_IP": "10.0.0.1"}
    *_, start = commands["worker_start_ray_commands"]
    done = subprocess.run(["bash", "-c", start], env=environment, capture_output=True, text=True)
    assert done.stdout == f"start --address=10.0.0.1:6379 --labels=role={role}\n", done.stderr
