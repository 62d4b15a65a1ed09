"""Many tensors as few checked byte buffers over a Wire.

Both sides cut the same list of tensors into the same buckets; each bucket travels as a header,
checksums and one flat buffer:

    header     kind | bucket index | bytes        (int64 each)
    checksums  of each tensor                     (int64 each)
    buffer     the bucket's tensors one after the other, each at an aligned offset

Either side works on two buckets at a time: while one travels the sender gathers and merges the
next, and the receiver loads the one before.

A closing header says how many buckets there were; an abort header says that the sender gave up, so
that receivers fail at once and not by their time limit. Knows nothing of vLLM.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch

from coop_rl.errors import RunError, WeightSyncError
from coop_rl.weights.receipt import Receipt, flat_bytes, receipt_on
from coop_rl.weights.wire import Wire

T = TypeVar("T")
DEFAULT_BUCKET_BYTES = 8 * 2**20
"""Large enough that latency does not count; small enough that caches hold it while it is merged,
checked and loaded, and that the allocator keeps its memory for the next one."""
ALIGNMENT_BYTES = 16
"""A view as a wider type needs an offset divisible by the type's size."""
DATA, END, ABORT = 1, 2, 3
"""Kinds of header."""
NUM_HEADER_FIELDS = 3


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What both sides know of a tensor before it travels."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def owners(self) -> None:
        """Which learner ranks yield it, as vLLM 0.33 asks: None is every rank."""
        return None

    @property
    def num_bytes(self) -> int:
        """Size of its elements."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that travel in one buffer."""

    index: int
    specs: tuple[TensorSpec, ...]
    offsets: tuple[int, ...]
    num_bytes: int

    def __str__(self) -> str:
        return f"bucket {self.index} (first tensor {self.specs[0].name})"

    def views(self, buffer: torch.Tensor) -> Iterator[tuple[TensorSpec, torch.Tensor]]:
        """Yield each tensor as a view of `buffer`, typed and shaped."""
        for spec, offset in zip(self.specs, self.offsets, strict=True):
            part = buffer[offset : offset + spec.num_bytes]
            yield spec, part.view(spec.dtype).view(spec.shape)

    def receipt(self, buffer: torch.Tensor) -> Receipt:
        """Return the checksum of each tensor in `buffer`."""
        tensors = ((spec.name, tensor) for spec, tensor in self.views(buffer))
        return receipt_on(buffer.device, tensors)


def plan_buckets(specs: Sequence[TensorSpec], bucket_bytes: int) -> list[Bucket]:
    """Cut `specs` in order into buckets of at most `bucket_bytes`; a larger tensor is alone."""
    buckets: list[Bucket] = []
    members: list[TensorSpec] = []
    offsets: list[int] = []
    end = 0

    def close() -> None:
        buckets.append(Bucket(len(buckets), tuple(members), tuple(offsets), end))

    for spec in specs:
        start = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if members and start + spec.num_bytes > bucket_bytes:
            close()
            members, offsets, start = [], [], 0
        members.append(spec)
        offsets.append(start)
        end = start + spec.num_bytes
    if members:
        close()
    return buckets


class BucketSender:
    """The root's side; one object per transfer."""

    def __init__(
        self, wire: Wire, buckets: Sequence[Bucket], check: Callable[[], None] = lambda: None
    ) -> None:
        """Send `buckets`; `check` runs before each and may raise when receivers have failed."""
        self._wire = wire
        self._buckets = buckets
        self._check = check

    def send(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Send the tensors of `pairs`, which must be those of the buckets, in order.

        Raises:
            ActorLostError: A receiver was lost, or gave up.
            WeightSyncError: `pairs` is not what the buckets declare.
        """
        iterator = iter(pairs)
        filled = ((b, (b, self._fill(b, iterator))) for b in self._buckets)
        try:
            # Closed before `iterator` is touched here: until then the thread may be using it.
            with closing(ahead(filled, outsized(self._buckets))) as ready:
                for bucket, buffer in ready:
                    self._check()
                    self._transmit(bucket, buffer)
                    del buffer
            extra = next(iterator, None)
            if extra is not None:
                raise WeightSyncError(f"tensor {extra[0]} was not declared")
            self._send_header(END, len(self._buckets), 0)
        except BaseException as error:
            self._abort()
            # What the other ranks of the learner gather with us are collectives: go on to the end,
            # or they wait for us until their limit.
            if isinstance(error, RunError):
                for _ in iterator:
                    pass
            raise

    def _fill(self, bucket: Bucket, iterator: Iterator[tuple[str, torch.Tensor]]) -> torch.Tensor:
        """Copy the next tensors of `iterator` into one buffer; one alone is its buffer itself."""
        if len(bucket.specs) == 1:
            tensor = _next(iterator, bucket.specs[0])
            return flat_bytes(tensor.to(self._wire.device))
        buffer = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=self._wire.device)
        for spec, view in bucket.views(buffer):
            view.copy_(_next(iterator, spec))
        return buffer

    def _transmit(self, bucket: Bucket, buffer: torch.Tensor) -> None:
        """Send one bucket; tests override this to damage or drop it."""
        self._send_header(DATA, bucket.index, bucket.num_bytes)
        checksums = torch.tensor(list(bucket.receipt(buffer).values()), dtype=torch.int64)
        self._wire.tell(checksums, f"the checksums of {bucket}")
        self._send_payload(bucket, buffer)

    def _send_payload(self, bucket: Bucket, buffer: torch.Tensor) -> None:
        self._wire.payload(buffer, str(bucket))

    def _send_header(self, kind: int, index: int, num_bytes: int) -> None:
        header = torch.tensor([kind, index, num_bytes], dtype=torch.int64)
        self._wire.tell(header, f"the header of bucket {index}")

    def _abort(self) -> None:
        # Where the group is gone already, the receivers notice that as well.
        with suppress(RunError):
            self._send_header(ABORT, 0, 0)
        self._wire.close()


def receive(
    wire: Wire,
    buckets: Sequence[Bucket],
    receipt: Receipt,
    memory_for: Callable[[TensorSpec], torch.Tensor | None] = lambda _: None,
) -> Generator[list[tuple[str, torch.Tensor]], None, None]:
    """Yield the tensors of each bucket once their checksums have been verified.

    No two buckets share memory: the consumer may keep views of one (vLLM does, until the layer is
    complete).

    Args:
        wire: The way from the sender.
        buckets: What is expected.
        receipt: Gets the checksum of every tensor that arrived unharmed.
        memory_for: Returns the consumer's memory for a tensor that travels by itself, or None;
            what it returns is overwritten before the tensor's checksum is known.

    Raises:
        ActorLostError: The sender was lost, or did not send within the limit.
        WeightSyncError: A tensor is damaged, or a bucket is missing or not the expected one.
    """
    try:
        given = {b.index: memory_for(b.specs[0]) for b in buckets if len(b.specs) == 1}
        arrivals = _arrivals(wire, buckets, receipt, given)
        new = [b for b in buckets if given.get(b.index) is None]
        with closing(ahead(arrivals, outsized(new))) as arrived:
            yield from arrived
        kind, index, _ = _receive_header(wire, "the end of the weights")
        if (kind, index) != (END, len(buckets)):
            raise WeightSyncError(
                f"{len(buckets)} buckets were expected, the sender has {index} or more"
            )
    except BaseException:
        # Closing tells the sender, which would wait for us until its limit.
        wire.close()
        raise


def ahead(items: Iterator[tuple[Bucket, T]], alone: Bucket | None) -> Generator[T, None, None]:
    """Yield what comes with each bucket; a thread prepares the next one while one is used.

    Closing it waits for the item in preparation; afterwards no thread uses `items`.

    Args:
        items: What is prepared.
        alone: During the use of this one nothing is prepared, for memory's sake.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            # Names are dropped as soon as they may be: each holds a bucket's memory.
            if item[0] is alone:
                del coming
                yield item[1]
                del item
                coming = thread.submit(next, items, None)
            else:
                coming = thread.submit(next, items, None)
                yield item[1]
                del item


def outsized(buckets: Sequence[Bucket]) -> Bucket | None:
    """Return the bucket that decides the peak of memory, such as an embedding's, if any does."""
    largest = max(buckets, key=lambda bucket: bucket.num_bytes, default=None)
    return largest if largest and largest.num_bytes > 2 * DEFAULT_BUCKET_BYTES else None


def _next(iterator: Iterator[tuple[str, torch.Tensor]], spec: TensorSpec) -> torch.Tensor:
    """Return the next tensor of `iterator`, which must be the declared one."""
    name, tensor = next(iterator, (None, None))
    if tensor is None:
        raise WeightSyncError(f"tensor {spec.name} was declared but is missing")
    if (name, tensor.dtype, tuple(tensor.shape)) != (spec.name, spec.dtype, spec.shape):
        raise WeightSyncError(
            f"declared {spec.name} {spec.dtype} {spec.shape}, "
            f"got {name} {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor.detach()


def _arrivals(
    wire: Wire,
    buckets: Sequence[Bucket],
    receipt: Receipt,
    given: Mapping[int, torch.Tensor | None],
) -> Iterator[tuple[Bucket, list[tuple[str, torch.Tensor]]]]:
    for bucket in buckets:
        _check_header(bucket, *_receive_header(wire, str(bucket)))
        memory = given.get(bucket.index)
        if memory is None:
            buffer = torch.empty(bucket.num_bytes, dtype=torch.uint8, device=wire.device)
        else:
            buffer = flat_bytes(memory)
        receipt |= _receive_verified(wire, bucket, buffer)
        yield bucket, [(spec.name, tensor) for spec, tensor in bucket.views(buffer)]


def _receive_verified(wire: Wire, bucket: Bucket, buffer: torch.Tensor) -> Receipt:
    checksums = torch.zeros(len(bucket.specs), dtype=torch.int64)
    wire.tell(checksums, f"the checksums of {bucket}")
    wire.payload(buffer, str(bucket))
    receipt = bucket.receipt(buffer)
    for (name, got), sent in zip(receipt.items(), checksums.tolist(), strict=True):
        if got != sent:
            raise WeightSyncError(
                f"tensor {name} in bucket {bucket.index} is damaged: "
                f"checksum {got:016x}, sent as {sent:016x}"
            )
    return receipt


def _receive_header(wire: Wire, what: str) -> list[int]:
    header = torch.zeros(NUM_HEADER_FIELDS, dtype=torch.int64)
    wire.tell(header, f"the header of {what}")
    values: list[int] = header.tolist()
    return values


def _check_header(bucket: Bucket, kind: int, index: int, num_bytes: int) -> None:
    if kind == ABORT:
        raise WeightSyncError(f"the sender gave up before {bucket}")
    if kind != DATA or index != bucket.index:
        got = f"bucket {index}" if kind == DATA else "the end"
        raise WeightSyncError(f"{bucket} was skipped: got {got}")
    if num_bytes != bucket.num_bytes:
        raise WeightSyncError(
            f"{bucket} has {bucket.num_bytes} bytes here, {num_bytes} at the sender"
        )
