"""Small torch process groups outside `torch.distributed`'s default world.

The default world belongs to DeepSpeed; these groups link processes across worlds:

    w            meta-controller (root) --> every learner rank          push of w
    resync       joint rank r (root)    --> shadow rank r               theta, moments, gradient
                                            (nccl where both have devices of their own)
    weights      joint rank 0 (root)    --> every engine worker         weight sync (gloo backend)

Where members share memory, bytes pass through that, and only words about them here (`wire`).

The root opens a store and tells the others where it is; then all of them, the root included, join
at the same time. Every operation has the group's time limit; a group that failed once is closed, so
that the members still waiting see their connections end instead of waiting out their limits.
"""

import socket
from datetime import timedelta
from typing import Any, Literal

import torch

# The module that carries the types; `torch.distributed` re-exports these without saying so.
from torch._C._distributed_c10d import (
    BroadcastOptions,
    PrefixStore,
    ProcessGroupGloo,
    Store,
    TCPStore,
)

from coop_rl.errors import ActorLostError, first_line

SyncBackend = Literal["gloo", "nccl"]


def open_store(host: str, timeout_s: float) -> tuple[TCPStore, int]:
    """Open a store that listens on `host` only; return it (keep it alive) and its port."""
    # Bound by us: a TCPStore that binds by itself listens on every interface, and asking for a free
    # port first leaves a gap in which another process may take it.
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    listener = socket.create_server((host, 0), family=family)
    port: int = listener.getsockname()[1]
    store = TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),
    )
    return store, port


def local_address_towards(host: str) -> str:
    """Return this machine's address on the route to `host` (loopback for loopback)."""
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Connecting a datagram socket only picks the route; nothing is sent.
        probe.connect((host, 9))
        address: str = probe.getsockname()[0]
    return address


class PeerGroup:
    """One membership of a group; unusable after the first failure or `close`."""

    def __init__(
        self,
        name: str,
        rank: int,
        size: int,
        timeout_s: float,
        group: Any,
        store: Store,
        device: torch.device,
    ) -> None:
        """Wrap a connected torch group; use `join`."""
        self.name = name
        self.device = device
        """Where tensors must lie to be sent and received."""
        self.rank = rank
        self.size = size
        self.timeout_s = timeout_s
        # Any: torch's annotations leave out what backends can do.
        self._group: Any = group
        # The root's store serves the others' lookups: it must live as long as the group.
        self._store: Store | None = store

    @classmethod
    def join(
        cls,
        host: str,
        port: int,
        rank: int,
        size: int,
        timeout_s: float,
        name: str,
        *,
        backend: SyncBackend = "gloo",
        store: TCPStore | None = None,
    ) -> "PeerGroup":
        """Join as `rank` of `size`; returns once all of them have joined.

        Args:
            host: Where the store listens.
            port: Its port.
            rank: Of this process; the root that opened the store may have any.
            size: Number of members.
            timeout_s: Limit of the joining and of every later operation.
            name: What errors call the group.
            backend: `nccl` moves tensors of CUDA devices only.
            store: The open store, given by the root alone.

        Raises:
            ActorLostError: Not all members joined in time.
        """
        limit = timedelta(seconds=timeout_s)
        try:
            # The store's limit bounds how long a rank looks for members that never come.
            connected = store or TCPStore(
                host, port, is_master=False, wait_for_workers=False, timeout=limit
            )
            prefixed = PrefixStore(name, connected)
            group = _connect(backend, prefixed, rank, size, limit, local_address_towards(host))
        except (RuntimeError, OSError) as error:
            raise ActorLostError(
                f"group {name}, rank {rank} of {size}: not all members joined at {host}:{port} "
                f"within {timeout_s:g} s: {first_line(error)}"
            ) from error
        device = torch.device("cuda" if backend == "nccl" else "cpu")
        return cls(name, rank, size, timeout_s, group, connected, device)

    def broadcast(self, tensor: torch.Tensor, src: int = 0, *, what: str = "a tensor") -> None:
        """Send `tensor` from rank `src` into the same-sized `tensor` of all others, in place.

        Args:
            tensor: Contiguous, on the group's device.
            src: Rank that sends.
            what: What is being sent, for the error text.

        Raises:
            ActorLostError: A member died, or the limit passed.
        """
        verb = "sending" if self.rank == src else "receiving"
        where = f"group {self.name}, rank {self.rank} of {self.size}, {verb} {what}"
        if self._group is None:
            raise ActorLostError(f"{where}: the group is closed")
        if not tensor.is_contiguous():
            raise ValueError(f"{where}: tensor must be contiguous, got strides {tensor.stride()}")
        if tensor.numel() == 0:
            return
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        options.timeout = timedelta(seconds=self.timeout_s)
        # As bytes: gloo knows fewer types than torch.
        payload = tensor.detach().reshape(-1).view(torch.uint8)
        try:
            self._group.broadcast([payload], options).wait(options.timeout)
        except RuntimeError as error:
            self.close()
            raise ActorLostError(
                f"{where}: a member was lost or did not answer within {self.timeout_s:g} s: "
                f"{first_line(error)}"
            ) from error

    def close(self) -> None:
        """Disconnect; the other members' pending operations fail at once."""
        group, self._group, self._store = self._group, None, None
        # The connections end with the last reference to the torch object.
        del group


class GroupRegistry:
    """The groups of one process, opened and joined by name from the controller."""

    def __init__(self, host: str, timeout_s: float) -> None:
        """Open stores on `host`, this process's address for its peers."""
        self._host = host
        self._timeout_s = timeout_s
        self._stores: dict[str, TCPStore] = {}

    def open(self, name: str) -> tuple[str, int]:
        """Hold the store of group `name`; return where it listens."""
        self._stores[name], port = open_store(self._host, self._timeout_s)
        return self._host, port

    def join(
        self,
        name: str,
        host: str,
        port: int,
        rank: int,
        size: int,
        *,
        backend: SyncBackend = "gloo",
    ) -> PeerGroup:
        """Join group `name`; the group then owns the store, if this process opened it."""
        store = self._stores.pop(name, None)
        return PeerGroup.join(
            host, port, rank, size, self._timeout_s, name, backend=backend, store=store
        )


def _connect(
    backend: SyncBackend,
    store: Store,
    rank: int,
    size: int,
    limit: timedelta,
    own_address: str,
) -> Any:
    """Build the torch group; these classes, unlike `init_process_group`, leave no global state."""
    if backend == "nccl":
        # Absent from CPU builds of torch, so not imported above.
        from torch._C._distributed_c10d import ProcessGroupNCCL

        nccl_options = ProcessGroupNCCL.Options()
        nccl_options._timeout = limit
        return ProcessGroupNCCL(store, rank, size, nccl_options)
    gloo: Any = ProcessGroupGloo
    options = gloo._Options()
    options._timeout = limit
    # Without a given device gloo listens on the address of the host name, which may be public.
    options._devices = [gloo.create_device(hostname=own_address)]
    return gloo(store, rank, size, options)
