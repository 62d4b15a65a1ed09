"""The torch world of one learner group: what DeepSpeed's collectives run in.

Rank 0 opens the store on one given address, tells the others where it is, then all join. The store
and gloo listen on that network only; every collective has the given time limit.
"""

import os
import socket
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from coop_rl.errors import ActorLostError, first_line
from coop_rl.weights.process_group import local_address_towards


def init_world(
    host: str,
    port: int,
    rank: int,
    world_size: int,
    timeout_s: float,
    *,
    store: Store | None = None,
    name: str = "learner",
) -> None:
    """Join the group's torch world as its default process group.

    Args:
        host: Where the store listens.
        port: Its port.
        rank: Of this process.
        world_size: Ranks of the group.
        timeout_s: Limit of the joining and of every later collective.
        store: The open store, on the rank that opened it.
        name: What errors call the group.

    Raises:
        ActorLostError: Not all ranks joined in time.
    """
    limit = timedelta(seconds=timeout_s)
    # Left to itself gloo listens on the address of the host name, which may be public.
    interface = _interface_of(local_address_towards(host))
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if interface:
            os.environ.setdefault(variable, interface)
    # Each learner process sees its own device only (Ray), or none (`distributed.actors`).
    os.environ.setdefault("LOCAL_RANK", "0")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        connected = store or _connect_store(host, port, limit)
        dist.init_process_group(
            backend, store=connected, rank=rank, world_size=world_size, timeout=limit
        )
    except (RuntimeError, OSError) as error:
        reason = first_line(error)
        raise ActorLostError(
            f"{name} rank {rank} of {world_size}: not all ranks joined at {host}:{port} "
            f"within {timeout_s:g} s: {reason}"
        ) from error


def limit_all_groups(timeout_s: float) -> None:
    """Give every torch group of this process the limit.

    DeepSpeed makes further groups with torch's default limit, 30 minutes for gloo.
    """
    world = dist.distributed_c10d
    for group in list(world._world.pg_map):
        world._set_pg_timeout(timedelta(seconds=timeout_s), group)


def _connect_store(host: str, port: int, limit: timedelta) -> Store:
    return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=limit)


def _interface_of(address: str) -> str | None:
    for interface, entries in psutil.net_if_addrs().items():
        families = (socket.AF_INET, socket.AF_INET6)
        if any(e.family in families and e.address.split("%")[0] == address for e in entries):
            return interface
    return None
