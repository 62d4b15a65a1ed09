"""A Ray head with its job server, as `ray start --head` gives it, and its end."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.main_job.harness import TAG, tagged

RAY = str(Path(sys.executable).parent / "ray")
HEAD_ID = "f" * 51 + "00000"
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}
"""What Ray's fake provider wants to be told (it is private to Ray's own tests)."""


@dataclass(frozen=True)
class Head:
    """A running head."""

    job_server: str
    address: str
    """Of the control store, for drivers."""
    metrics: str
    """What Prometheus would scrape."""
    environment: dict[str, str]
    """With the cluster's token; give it to clients."""


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@contextmanager
def ray_head(node_types: Mapping[str, Any] | None = None, num_cpus: int = 2) -> Iterator[Head]:
    """Start a head with token authentication; end everything that carries its tag.

    Args:
        node_types: What autoscaler v2 may add, as in a cluster launcher's YAML: more raylets on
            this machine, by Ray's fake provider. None: it adds nothing.
        num_cpus: Of the head itself.
    """
    tag = uuid.uuid4().hex
    gcs, dashboard, client, agent, exporter = free_ports(5)
    shared = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
    unset = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", TAG)
    base = {k: v for k, v in os.environ.items() if k not in unset} | shared
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{base['PATH']}"
    with tempfile.TemporaryDirectory(prefix="ch", dir="/tmp") as folder:
        command = [
            RAY, "start", "--head", "--block", f"--port={gcs}", f"--num-cpus={num_cpus}",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--temp-dir={folder}/r",
            "--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}", "--object-store-memory=150000000",
            "--disable-usage-stats", f"--metrics-export-port={exporter}",
        ]  # fmt: skip
        log = Path(folder) / "head.log"
        settings = base | {TAG: tag, "PATH": bin_first, "RAY_metrics_report_interval_ms": "1000"}
        if node_types:
            path = Path(folder) / "autoscaling.yaml"
            path.write_text(yaml.safe_dump(autoscaling(gcs, num_cpus, node_types)))
            command.append(f"--autoscaling-config={path}")
            settings |= AUTOSCALER
        with log.open("w") as file:
            process = subprocess.Popen(command, env=settings, stdout=file, stderr=file)
        url = f"http://127.0.0.1:{dashboard}"
        try:
            _wait_for(url, shared["RAY_AUTH_TOKEN"], process, log)
            scraped = f"http://127.0.0.1:{exporter}/metrics"
            yield Head(url, f"127.0.0.1:{gcs}", scraped, base | {"PATH": bin_first})
        finally:
            process.terminate()
            end(tagged(tag))


def autoscaling(gcs: int, num_cpus: int, node_types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the autoscaler's config, with a provider that starts raylets on this machine."""
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    types = {name: {"node_config": {}, "min_workers": 0, **t} for name, t in node_types.items()}
    head = {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0}
    empty = (
        "initialization_commands", "setup_commands", "head_setup_commands",
        "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
        "cluster_synced_files", "rsync_exclude", "rsync_filter",
    )  # fmt: skip
    return {
        "cluster_name": "fake",
        "max_workers": sum(t["max_workers"] for t in types.values()),
        "provider": {
            "type": "external", "module": module, "use_node_id_as_ip": True,
            "disable_node_updaters": True, "disable_launch_config_check": True,
            "launch_multiple": True, "head_node_id": HEAD_ID, "gcs_address": f"127.0.0.1:{gcs}",
        },
        "available_node_types": {"ray.head.default": head, **types},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0, "idle_timeout_minutes": 0.1,
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        **{name: [] for name in empty},
    }  # fmt: skip


def end(processes: Sequence[psutil.Process]) -> None:
    """Give processes a moment, then kill them."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=10)


def _wait_for(url: str, token: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    request = urllib.request.Request(
        f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the Ray head did not come up:\n{log.read_text()[-2000:]}")
