"""Peer groups and bucket transfers: limits, lost peers, loopback only, damage is noticed."""

import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from coop_rl.errors import ActorLostError, WeightSyncError
from coop_rl.weights.buckets import BucketSender, TensorSpec, plan_buckets, receive
from coop_rl.weights.process_group import GroupRegistry, PeerGroup, open_store
from coop_rl.weights.wire import SharedMemory, Wire, agreed

HOST = "127.0.0.1"
LIMIT_S = 4.0


def make_groups(size=2, timeout_s=LIMIT_S):
    """Join all ranks from threads of this process."""
    store, port = open_store(HOST, timeout_s)
    with ThreadPoolExecutor(size) as executor:
        joining = [
            executor.submit(
                PeerGroup.join,
                HOST,
                port,
                rank,
                size,
                timeout_s,
                "test",
                store=None if rank else store,
            )
            for rank in range(size)
        ]
        return [future.result() for future in joining]


def in_parallel(*calls):
    """Run calls at once; return each one's result or exception."""
    with ThreadPoolExecutor(len(calls)) as executor:
        futures = [executor.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_broadcast_reaches_every_rank(dtype):
    groups = make_groups(3)
    sent = torch.arange(10).to(dtype).reshape(2, 5)
    got = [torch.zeros_like(sent) for _ in groups]
    got[0].copy_(sent)
    in_parallel(*(lambda g=g, t=t: g.broadcast(t) for g, t in zip(groups, got, strict=True)))
    assert all(torch.equal(t, sent) for t in got)


def test_root_may_have_any_rank_and_registry_links_by_name():
    root, other = GroupRegistry(HOST, LIMIT_S), GroupRegistry(HOST, LIMIT_S)
    address = root.open("w")
    a, b = in_parallel(
        lambda: root.join("w", *address, 1, 2),
        lambda: other.join("w", *address, 0, 2),
    )
    value = torch.ones(3)
    in_parallel(lambda: b.broadcast(torch.zeros(3)), lambda: a.broadcast(value))
    assert value.tolist() == [0, 0, 0]


def test_missing_member_ends_the_joining_within_the_limit():
    store, port = open_store(HOST, 1.0)
    began = time.monotonic()
    with pytest.raises(ActorLostError, match=r"group lonely, rank 0 of 2: not all members joined"):
        PeerGroup.join(HOST, port, 0, 2, 1.0, "lonely", store=store)
    assert time.monotonic() - began < 5


def test_silent_peer_ends_the_broadcast_within_the_limit():
    group, _silent = make_groups(timeout_s=1.0)
    began = time.monotonic()
    with pytest.raises(ActorLostError, match=r"group test, rank 0 of 2, sending the adapter"):
        group.broadcast(torch.ones(1 << 20), what="the adapter")
    assert time.monotonic() - began < 5
    with pytest.raises(ActorLostError, match="closed"):
        group.broadcast(torch.ones(1))


def test_closing_frees_the_peers_at_once():
    first, second = make_groups(timeout_s=30.0)
    began = time.monotonic()
    threading.Timer(0.2, first.close).start()
    with pytest.raises(ActorLostError, match="receiving"):
        second.broadcast(torch.ones(1 << 20))
    assert time.monotonic() - began < 5


def wait_as_peer(port, joined):
    PeerGroup.join(HOST, port, 1, 2, 60.0, "test")
    joined.set()
    time.sleep(60)


def test_killed_peer_is_noticed_long_before_the_limit():
    context = multiprocessing.get_context("spawn")
    store, port = open_store(HOST, 60.0)
    joined = context.Event()
    peer = context.Process(target=wait_as_peer, args=(port, joined), daemon=True)
    peer.start()
    group = PeerGroup.join(HOST, port, 0, 2, 60.0, "test", store=store)
    assert joined.wait(30)
    assert peer.pid is not None
    os.kill(peer.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ActorLostError, match="a member was lost"):
        group.broadcast(torch.ones(1 << 20))
    assert time.monotonic() - began < 5
    peer.join(5)


def test_everything_listens_on_loopback_only():
    before = listening()
    groups = make_groups(3)
    opened = listening() - before
    assert opened
    assert {address for address, _ in opened} == {HOST}
    del groups


def listening():
    connections = psutil.Process().net_connections(kind="tcp")
    return {tuple(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}


SPECS = [
    TensorSpec("a", torch.bfloat16, (3, 3)),
    TensorSpec("b", torch.float32, (5,)),
    TensorSpec("empty", torch.float32, (0,)),
    TensorSpec("large", torch.float32, (100, 10)),
    TensorSpec("c", torch.float32, (7,)),
]


def tensors():
    generator = torch.Generator().manual_seed(0)
    return [(s.name, torch.randn(s.shape, generator=generator).to(s.dtype)) for s in SPECS]


class Damaging(BucketSender):
    def _send_payload(self, bucket, buffer):
        if bucket.index == 1:
            buffer[17] ^= 1
        super()._send_payload(bucket, buffer)


class Skipping(BucketSender):
    skipped = 1

    def _transmit(self, bucket, buffer):
        if bucket.index != self.skipped:
            super()._transmit(bucket, buffer)


class SkippingLast(Skipping):
    skipped = 2


def make_wires(shared_bytes):
    sender, receiver = make_groups(timeout_s=20.0)
    if not shared_bytes:
        return Wire(sender), Wire(receiver)
    memory = SharedMemory.create(torch.device("cpu"), shared_bytes)
    return in_parallel(
        lambda: agreed(sender, memory, is_offered=True),
        lambda: agreed(
            receiver, SharedMemory.open(memory.offer, torch.device("cpu")), is_offered=True
        ),
    )


wires = pytest.mark.parametrize("shared_bytes", [0, 64, 5000], ids=["sockets", "pieces", "whole"])


def transfer(sender_class=BucketSender, pairs=None, bucket_bytes=128, shared_bytes=0):
    sender, receiver = make_wires(shared_bytes)
    assert sender.shares_memory == receiver.shares_memory == bool(shared_bytes)
    buckets = plan_buckets(SPECS, bucket_bytes)
    return in_parallel(
        lambda: sender_class(sender, buckets).send(tensors() if pairs is None else pairs),
        lambda: [pair for part in receive(receiver, buckets, {}) for pair in part],
    )


def test_buckets_respect_the_limit_and_align():
    buckets = plan_buckets(SPECS, 128)
    assert [[s.name for s in b.specs] for b in buckets] == [["a", "b", "empty"], ["large"], ["c"]]
    assert [b.num_bytes for b in buckets] == [32 + 20 + 12, 4000, 28]
    assert all(offset % 16 == 0 for b in buckets for offset in b.offsets)


@wires
@pytest.mark.parametrize("bucket_bytes", [1, 128, 1 << 20])
def test_transfer_is_exact(bucket_bytes, shared_bytes):
    _, got = transfer(bucket_bytes=bucket_bytes, shared_bytes=shared_bytes)
    assert [name for name, _ in got] == [s.name for s in SPECS]
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(got, tensors(), strict=True))


@wires
@pytest.mark.parametrize(
    ("sender_class", "message"),
    [
        (Damaging, "tensor large in bucket 1 is damaged"),
        (Skipping, r"bucket 1 \(first tensor large\) was skipped: got bucket 2"),
        (SkippingLast, r"bucket 2 \(first tensor c\) was skipped: got the end"),
    ],
)
def test_harm_names_the_first_tensor_and_frees_the_sender(sender_class, message, shared_bytes):
    began = time.monotonic()
    _, received = transfer(sender_class, shared_bytes=shared_bytes)
    assert isinstance(received, WeightSyncError)
    assert re.search(message, str(received))
    # Well under the limit of 20 s: neither side waited it out.
    assert time.monotonic() - began < 10


def test_failing_source_frees_the_receiver():
    def failing():
        yield tensors()[0]
        raise RuntimeError("gathering failed")

    sent, received = transfer(pairs=failing())
    assert "gathering failed" in str(sent)
    assert "the sender gave up before bucket 0 (first tensor a)" in str(received)


def test_undeclared_tensor_is_refused_and_the_source_is_drained():
    iterator = iter([("z", torch.zeros(1)), *tensors()])
    sent, _ = transfer(pairs=iterator)
    assert isinstance(sent, WeightSyncError)
    assert "declared a" in str(sent)
    # The other learner ranks gather along: the sender must reach the end as they do.
    assert next(iterator, None) is None


@wires
def test_a_tensor_by_itself_arrives_where_the_consumer_wants_it(shared_bytes):
    place = torch.zeros(100, 10)
    sender, receiver = make_wires(shared_bytes)
    buckets = plan_buckets(SPECS, 128)
    _, got = in_parallel(
        lambda: BucketSender(sender, buckets).send(tensors()),
        lambda: [
            pair
            for part in receive(receiver, buckets, {}, lambda s: {"large": place}.get(s.name))
            for pair in part
        ],
    )
    assert dict(got)["large"].data_ptr() == place.data_ptr()
    assert torch.equal(place, dict(tensors())["large"])
