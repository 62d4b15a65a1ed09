"""Two hosts on one machine: network namespaces with own addresses, linked by a veth pair."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.main_job.harness import TAG, tagged
from tests.main_job.ray_head import RAY, end

PORT = 6379
WAIT_FOR_NODES = """
import ray, sys, time
address, count, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + 90
while True:
    try:
        ray.init(address=address, log_to_driver=False)
        if sum(node["Alive"] for node in ray.nodes()) == count:
            break
        ray.shutdown()
    except ConnectionError:
        pass
    if time.monotonic() > deadline:
        sys.exit("not all nodes came")
    time.sleep(1)
"""


@dataclass(frozen=True)
class Host:
    """One namespace."""

    namespace: str
    link: str
    address: str
    environment: dict[str, str]
    log: Path

    @property
    def prefix(self) -> list[str]:
        """What makes a command run on this host."""
        return ["ip", "netns", "exec", self.namespace]

    def start_ray(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a raylet that stays in the foreground."""
        command = [
            RAY, "start", "--block", "--num-gpus=0", f"--node-ip-address={self.address}",
            "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=150000000",
            "--disable-usage-stats", *arguments,
        ]  # fmt: skip
        with self.log.open("a") as file:
            return subprocess.Popen(
                self.prefix + command, env=self.environment, stdout=file, stderr=file
            )

    def wait_for_nodes(self, count: int) -> None:
        """On the head: wait until the cluster has so many nodes."""
        subprocess.run(
            [
                *self.prefix, sys.executable, "-c", WAIT_FOR_NODES,
                f"{self.address}:{PORT}", f"{count}",
            ],
            env=self.environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip

    def cut(self) -> None:
        """Take the network away."""
        _ip("-n", self.namespace, "link", "set", self.link, "down")

    def heal(self) -> None:
        """Give it back."""
        _ip("-n", self.namespace, "link", "set", self.link, "up")

    def received_bytes(self) -> int:
        """Return what has come over the link so far."""
        path = f"/sys/class/net/{self.link}/statistics/rx_bytes"
        done = subprocess.run(
            [*self.prefix, "cat", path], check=True, capture_output=True, text=True, timeout=10
        )
        return int(done.stdout)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make them; on leaving, end everything that runs there and take them down."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("root: network namespaces need root and iproute2")
    tag, unique = uuid.uuid4().hex, f"{os.getpid() % 10**5}"
    names = [f"cr{unique}{side}" for side in "ab"]
    unset = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    # A lost host is noticed after 6 s, not 30.
    health = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
    base = {k: v for k, v in os.environ.items() if k not in unset}
    environment = base | health | token | {TAG: tag}
    with tempfile.TemporaryDirectory(prefix="nh", dir="/tmp") as folder:
        hosts = [
            Host(name, name, f"10.77.0.{i}", environment, Path(folder) / f"{name}.log")
            for i, name in enumerate(names, 1)
        ]
        try:
            _link(hosts)
            yield hosts[0], hosts[1]
        finally:
            end(tagged(tag))
            for host in hosts:
                with suppress(subprocess.CalledProcessError):
                    _ip("netns", "del", host.namespace)


def _link(hosts: Sequence[Host]) -> None:
    one, other = hosts
    for host in hosts:
        _ip("netns", "add", host.namespace)
    _ip("link", "add", one.link, "netns", one.namespace, "type", "veth",
        "peer", "name", other.link, "netns", other.namespace)  # fmt: skip
    for host in hosts:
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.link)
        for link in ("lo", host.link):
            _ip("-n", host.namespace, "link", "set", link, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)
