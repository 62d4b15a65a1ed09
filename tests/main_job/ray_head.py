"""A Ray head with its job server, as `ray start --head` gives it, and its end."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.main_job.harness import TAG, tagged

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Head:
    """A running head."""

    job_server: str
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
def ray_head() -> Iterator[Head]:
    """Start a head with token authentication; end everything that carries its tag."""
    tag = uuid.uuid4().hex
    gcs, dashboard, client, agent = free_ports(4)
    shared = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
    unset = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", TAG)
    base = {k: v for k, v in os.environ.items() if k not in unset} | shared
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{base['PATH']}"
    with tempfile.TemporaryDirectory(prefix="ch", dir="/tmp") as folder:
        command = [
            RAY, "start", "--head", "--block", f"--port={gcs}", "--num-cpus=2",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--temp-dir={folder}/r",
            "--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={client}",
            f"--dashboard-agent-listen-port={agent}", "--object-store-memory=150000000",
            "--disable-usage-stats",
        ]  # fmt: skip
        log = Path(folder) / "head.log"
        settings = base | {TAG: tag, "PATH": bin_first}
        with log.open("w") as file:
            process = subprocess.Popen(command, env=settings, stdout=file, stderr=file)
        url = f"http://127.0.0.1:{dashboard}"
        try:
            _wait_for(url, shared["RAY_AUTH_TOKEN"], process, log)
            yield Head(url, base | {"PATH": bin_first})
        finally:
            process.terminate()
            end(tagged(tag))


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
