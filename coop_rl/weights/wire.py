"""How the bytes of weights pass: over the group itself, or through memory that all members see.

    sender                                     receivers
    create memory, mark it
    --- JoinInfo with the memory's `Offer` -->  open it, look for the mark
    <== each says over the group whether it found it; one did not: all bytes go over the group ===
    a piece into the memory
    === "filled" =============================> a copy out of it
    <== "taken", of each ======================

Members that share a machine, or a GPU, save the way through sockets, or through the host. The small
messages go over the group, so whoever dies or hangs is noticed as without shared memory.

On CPUs the memory is an anonymous file of the sender, which others open as /proc/PID/fd/N: it has
no name and goes with the last process that holds it. On a GPU it is a block exported by CUDA IPC,
offered to processes on that very GPU. That part runs nowhere but on a GPU and is untried.
"""

import json
import logging
import os
import secrets
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from coop_rl.weights.allocator import plain_segments
from coop_rl.weights.process_group import PeerGroup

PIECE_BYTES = {"cpu": 8 * 2**20, "cuda": 128 * 2**20}
"""Of memory that is shared, by the kind of device. Caches hold a small one; within a GPU the copies
take no time beside the few messages that each piece costs."""
log = logging.getLogger(__name__)
MEMFD_NAME = "coop-rl-weights"
MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Offer:
    """Where the sender's memory is, in numbers and strings, which vLLM hands to its processes."""

    num_bytes: int
    mark: int
    """What stands in its first bytes."""
    path: str = ""
    """Of the sender's file, where it lies on the host."""
    device: str = ""
    """The GPU's UUID, where it lies on one."""
    storage: tuple[int | str, ...] = ()
    """What CUDA IPC calls it (`readable`)."""


class SharedMemory:
    """Memory that this process and others see."""

    def __init__(self, buffer_B: torch.Tensor, offer: Offer, file: int | None = None) -> None:
        """Hold `buffer_B`; `file` is the descriptor that others open it by."""
        self.buffer_B = buffer_B
        self.offer = offer
        self._close = weakref.finalize(self, os.close, file) if file is not None else None

    @classmethod
    def create(cls, device: torch.device, num_bytes: int | None = None) -> "SharedMemory":
        """Make and mark memory of `num_bytes`, where `device` is; None: as many as serve it."""
        mark = secrets.randbits(63)
        num_bytes = num_bytes or PIECE_BYTES[device.type]
        if device.type == "cuda":
            memory = cls(*_create_on_gpu(device, num_bytes, mark))
        else:
            file = os.memfd_create(MEMFD_NAME)
            os.ftruncate(file, num_bytes)
            offer = Offer(num_bytes, mark, path=f"/proc/{os.getpid()}/fd/{file}")
            memory = cls(_mapped(offer), offer, file)
        memory.buffer_B[:MARK_BYTES].view(torch.int64).fill_(mark)
        _synchronize(memory.buffer_B)
        return memory

    @classmethod
    def open(cls, offer: Offer, device: torch.device) -> "SharedMemory | None":
        """Return what `offer` speaks of; None where this process on `device` does not see it."""
        # Of torch's private functions, which may come to want other arguments, a TypeError.
        with suppress(OSError, RuntimeError, ValueError, TypeError):
            buffer_B = _open_on_gpu(offer, device) if offer.device else _open_on_host(offer)
            if buffer_B is not None:
                mark = int(buffer_B[:MARK_BYTES].view(torch.int64))
                return cls(buffer_B, offer) if mark == offer.mark else None
        return None

    def close(self) -> None:
        """Let nobody else open it; it lives until all that hold it let go."""
        if self._close is not None:
            self._close()


class Wire:
    """The way between a sender, rank 0 of a group, and its receivers."""

    def __init__(self, group: PeerGroup, memory: SharedMemory | None = None) -> None:
        """Send over `group`, and through `memory` if all members see it (`agreed`)."""
        self.group = group
        self._memory = memory
        self.device = torch.device("cpu") if memory is None else memory.buffer_B.device
        """Where payloads lie."""

    @property
    def shares_memory(self) -> bool:
        """Whether payloads pass through shared memory."""
        return self._memory is not None

    def bucket_bytes(self, default: int) -> int:
        """Return how many bytes at a time serve it best; `default` on the host."""
        return default if self.device.type == "cpu" else PIECE_BYTES[self.device.type]

    def tell(self, message: torch.Tensor, what: str) -> None:
        """Send a small tensor of the host, or receive into it."""
        self.group.broadcast(message, what=what)

    def payload(self, payload_B: torch.Tensor, what: str) -> None:
        """Send bytes that lie on `device`, or receive into them.

        Raises:
            ActorLostError: A member died, or the limit passed.
        """
        memory = self._memory
        if memory is None:
            self.group.broadcast(payload_B, what=what)
            return
        most = memory.offer.num_bytes
        for start in range(0, len(payload_B), most):
            piece_B = payload_B[start : start + most]
            shared_B = memory.buffer_B[: len(piece_B)]
            if self.group.rank == 0:
                self._copy(shared_B, piece_B)
            self._signal(0, what)
            if self.group.rank != 0:
                self._copy(piece_B, shared_B)
            for receiver in range(1, self.group.size):
                self._signal(receiver, what)

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> None:
        """Send a contiguous tensor that lies on `device`, or receive into it; rank 0 sends."""
        assert src == 0
        self.payload(tensor.detach().reshape(-1).view(torch.uint8), "a tensor")

    def close(self) -> None:
        """Leave the group and let go of the memory."""
        self.group.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _signal(self, src: int, what: str) -> None:
        self.group.broadcast(torch.zeros(1, dtype=torch.uint8), src, what=what)

    def _copy(self, into_B: torch.Tensor, from_B: torch.Tensor) -> None:
        into_B.copy_(from_B)
        _synchronize(into_B)


def agreed(group: PeerGroup, memory: SharedMemory | None, *, is_offered: bool) -> Wire:
    """Return the wire: through `memory` if it was offered, and every receiver found it."""
    if not is_offered:
        return Wire(group)
    answers = torch.zeros(group.size, dtype=torch.uint8)
    for receiver in range(1, group.size):
        answer = answers[receiver : receiver + 1].fill_(memory is not None)
        group.broadcast(answer, receiver, what="whether memory is shared")
    if bool(answers[1:].all()):
        return Wire(group, memory)
    if memory is not None:
        memory.close()
    return Wire(group)


def offered(device: torch.device) -> SharedMemory | None:
    """Return memory to share, or None where the system, or the GPU's driver, has none."""
    try:
        return SharedMemory.create(device)
    except (OSError, RuntimeError) as error:
        log.warning("no memory of %s can be shared: %s; sockets are taken", device, error)
        return None


def shared_by(group: PeerGroup, device: torch.device) -> Wire:
    """Return the wire of a group whose members share memory of `device`, if they all see it."""
    length = torch.zeros(1, dtype=torch.int64)
    if group.rank == 0:
        memory = offered(device)
        text = json.dumps(as_dict(memory.offer)) if memory else ""
        group.broadcast(length.fill_(len(text)), what="an offer")
        if memory:
            content = torch.tensor(list(text.encode()), dtype=torch.uint8)
            group.broadcast(content, what="an offer")
        return agreed(group, memory, is_offered=memory is not None)
    group.broadcast(length, what="an offer")
    if not length:
        return Wire(group)
    content = torch.empty(int(length), dtype=torch.uint8)
    group.broadcast(content, what="an offer")
    offer = Offer(**json.loads(bytes(content.numpy())))
    return agreed(group, SharedMemory.open(offer, device), is_offered=True)


def as_dict(offer: Offer) -> dict[str, Any]:
    """Return `offer` as vLLM's messages carry it."""
    return asdict(offer) | {"storage": list(offer.storage)}


def _mapped(offer: Offer) -> torch.Tensor:
    return torch.from_file(offer.path, shared=True, size=offer.num_bytes, dtype=torch.uint8)


def _open_on_host(offer: Offer) -> torch.Tensor | None:
    # A process of another machine or container may have this number, and any file.
    path = Path(offer.path)
    if MEMFD_NAME not in str(path.readlink()) or path.stat().st_size != offer.num_bytes:
        return None
    return _mapped(offer)


def _create_on_gpu(device: torch.device, num_bytes: int, mark: int) -> tuple[torch.Tensor, Offer]:
    with plain_segments():
        buffer_B = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    shared: Any = buffer_B.untyped_storage()
    storage = readable(shared._share_cuda_())
    return buffer_B, Offer(num_bytes, mark, device=_uuid(device), storage=storage)


def readable(parts: Sequence[Any]) -> tuple[int | str, ...]:
    """Return the names and numbers of a shared block without bytes: those as hexadecimal digits."""
    return tuple(part.hex() if isinstance(part, bytes) else part for part in parts)


def unreadable(storage: Sequence[int | str]) -> list[Any]:
    """Return what `readable` was given; torch wants each of its own type, a bool among them."""
    return [bytes.fromhex(part) if isinstance(part, str) else part for part in storage]


def _open_on_gpu(offer: Offer, device: torch.device) -> torch.Tensor | None:
    if device.type != "cuda" or _uuid(device) != offer.device:
        return None
    # The first is the sender's number of the device: each process counts its own from 0.
    _, *parts = unreadable(offer.storage)
    new_shared: Any = torch.UntypedStorage._new_shared_cuda
    storage = new_shared(torch.cuda.current_device(), *parts)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)[: offer.num_bytes]


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def _synchronize(tensor: torch.Tensor) -> None:
    """Wait for a copy that another process is told of."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
