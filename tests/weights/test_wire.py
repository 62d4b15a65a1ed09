"""Memory that a sender and its receivers share: who does not see it, who dies, what is left."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.errors import ActorLostError
from coop_rl.weights.allocator import ALLOCATOR_VARIABLES, plain_segments
from coop_rl.weights.gloo_engine import GlooInitInfo
from coop_rl.weights.gloo_sender import JoinInfo
from coop_rl.weights.process_group import PeerGroup, open_store
from coop_rl.weights.receipt import (
    WORDS_AT_A_TIME,
    flat_bytes,
    receipt_of,
    receipt_on,
    sum_of_words,
)
from coop_rl.weights.wire import (
    MEMFD_NAME,
    Offer,
    SharedMemory,
    Wire,
    agreed,
    as_dict,
    offered,
    readable,
    shared_by,
    unreadable,
)
from tests.weights.receiver import PAYLOAD, receive_twice
from tests.weights.test_process_group import in_parallel, make_groups

CPU = torch.device("cpu")
PIECE = 1_000


GPU = pytest.param("cuda", True, marks=pytest.mark.gpu)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "finds"), [("cpu", True), ("cpu", False), GPU])
def test_two_other_processes_get_all_pieces_or_fall_back_together(kind: str, finds: bool) -> None:
    """And once one of them is dead, the sender says so, long before the limit."""
    device = torch.device(kind)
    context = multiprocessing.get_context("spawn")
    store, port = open_store("127.0.0.1", 60.0)
    memory = SharedMemory.create(device, PIECE)
    # As it travels to vLLM's processes.
    offer = json.loads(json.dumps(as_dict(memory.offer)))
    receivers, pipes = [], []
    for rank in (1, 2):
        ours, theirs = context.Pipe()
        arguments = (rank, port, offer, device if finds or rank == 1 else None, theirs)
        receivers.append(context.Process(target=receive_twice, args=arguments, daemon=True))
        receivers[-1].start()
        pipes.append(ours)
    group = PeerGroup.join("127.0.0.1", port, 0, 3, 60.0, "test", store=store)
    wire = agreed(group, memory, is_offered=True)
    for _ in range(2):
        wire.payload(PAYLOAD.to(wire.device), "a payload")
        assert [pipe.recv() for pipe in pipes] == [(finds, True)] * 2
    assert receivers[1].pid is not None
    os.kill(receivers[1].pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ActorLostError, match="a member was lost"):
        wire.payload(PAYLOAD.to(wire.device).repeat(2_000), "a payload")  # more than a socket takes
    assert time.monotonic() - began < 10
    wire.close()
    pipes[0].send(None)
    for receiver in receivers:
        receiver.join(10)
    assert not open_files()


def open_files() -> list[str]:
    links = (str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.is_symlink())
    return [link for link in links if MEMFD_NAME in link]


def test_nothing_is_left_where_nobody_joins() -> None:
    memory = SharedMemory.create(CPU, PIECE)
    assert len(open_files()) == 1
    del memory
    assert not open_files()


def test_other_memory_under_the_same_name_is_not_taken() -> None:
    memory, other = SharedMemory.create(CPU, PIECE), SharedMemory.create(CPU, PIECE)
    assert SharedMemory.open(memory.offer, CPU) is not None
    for offer in (
        replace(memory.offer, path=other.offer.path),
        replace(memory.offer, path=f"/proc/{os.getpid()}/fd/9999"),
        replace(memory.offer, path="/dev/zero"),
        replace(memory.offer, num_bytes=10**9),
        Offer(PIECE, 1, device="GPU-1", storage=(0, "00", PIECE, 0, "00", 0, "00", 0)),
    ):
        assert SharedMemory.open(offer, CPU) is None, offer


def test_an_offer_travels_in_what_vllm_lets_through() -> None:
    """Torch takes a block's parts in their own types only: (device, handle, ..., event, bool)."""
    parts = [0, bytes(range(64)), PIECE, 512, b"/torch_1_2", 3, b"\0" * 64, True]
    offer = Offer(PIECE, 7, device="GPU-1", storage=readable(parts))
    info = asdict(JoinInfo("h", 1, 1, 2, 3.0, 4, as_dict(offer)))
    there = GlooInitInfo(**json.loads(json.dumps(info)))
    assert there.offer is not None
    found = unreadable(Offer(**there.offer).storage)
    assert [(type(part), part) for part in found] == [(type(part), part) for part in parts]


def test_what_is_not_offered_costs_no_message() -> None:
    first, second = make_groups()
    wires = agreed(first, None, is_offered=False), agreed(second, None, is_offered=False)
    assert not any(wire.shares_memory for wire in wires)
    values = [torch.ones(3), torch.zeros(3)]
    in_parallel(*(lambda w=w, v=v: w.tell(v, "x") for w, v in zip(wires, values, strict=True)))
    assert torch.equal(*values)
    assert isinstance(wires[0], Wire)


@pytest.mark.gpu
def test_receipts_of_w_are_of_one_kind_on_any_device() -> None:
    """The meta-controller has w on the host, learners on a GPU; weights pass where they lie."""
    tensor = torch.randn(1_000)
    assert receipt_of([("w", tensor.cuda())]) == receipt_of([("w", tensor)])
    there = receipt_on(torch.device("cuda"), [("w", tensor)])
    assert there == {"w": sum_of_words(flat_bytes(tensor))}


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=80), st.data())
def test_sum_of_words_tells_every_single_change(content: bytes, data: st.DataObject) -> None:
    whole = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    changed = whole.clone()
    changed[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert sum_of_words(whole) != sum_of_words(changed)
    shifted = torch.frombuffer(bytearray(b"x" + content), dtype=torch.uint8)[1:]
    assert sum_of_words(shifted) == sum_of_words(whole)


def test_sum_of_words_knows_the_places_of_words() -> None:
    words = torch.zeros(WORDS_AT_A_TIME + 3, dtype=torch.int64)
    sums = set()
    for place in (0, 1, WORDS_AT_A_TIME - 1, WORDS_AT_A_TIME, WORDS_AT_A_TIME + 2):
        words[place] = 5
        sums.add(sum_of_words(words.view(torch.uint8)))
        words[place] = 0
    assert len(sums) == 5
    assert all(0 <= total < 2**63 for total in sums)


def test_memory_goes_with_the_last_process_that_holds_it() -> None:
    """A killed run leaves nothing in /dev/shm: an anonymous file has no name there."""
    memory = SharedMemory.create(CPU, 1 << 20)
    assert not any(MEMFD_NAME in path.name for path in Path("/dev/shm").iterdir())
    assert any(MEMFD_NAME in part.path for part in psutil.Process().memory_maps())
    del memory
    assert not any(MEMFD_NAME in part.path for part in psutil.Process().memory_maps())


def test_members_of_any_group_can_share_memory() -> None:
    """As the learners do, on theta's way to the shadow."""
    first, second = make_groups(timeout_s=20.0)
    sender, receiver = in_parallel(lambda: shared_by(first, CPU), lambda: shared_by(second, CPU))
    assert sender.shares_memory
    assert receiver.shares_memory
    for sent in (torch.randn(3, 5).bfloat16(), torch.zeros(0), torch.tensor([7, 8])):
        got = torch.empty_like(sent)
        in_parallel(lambda s=sent: sender.broadcast(s), lambda g=got: receiver.broadcast(g))
        assert torch.equal(sent, got)
    sender.close()
    with pytest.raises(ActorLostError, match="lost"):
        receiver.broadcast(torch.ones(3))


def test_where_no_memory_can_be_shared_sockets_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> int:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "memfd_create", refuse)
    first, second = make_groups(timeout_s=20.0)
    sender, receiver = in_parallel(lambda: shared_by(first, CPU), lambda: shared_by(second, CPU))
    assert not sender.shares_memory
    sent, got = torch.ones(3), torch.zeros(3)
    in_parallel(lambda: sender.broadcast(sent), lambda: receiver.broadcast(got))
    assert torch.equal(sent, got)
    assert offered(CPU) is None


def test_blocks_that_can_grow_are_off_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch is told, whose own memory of it a CPU build keeps as well."""
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append)
    monkeypatch.setenv(ALLOCATOR_VARIABLES[0], "expandable_segments:True,max_split_size_mb:64")
    with plain_segments():
        assert told == ["expandable_segments:False,max_split_size_mb:64"]
    assert told[1:] == ["expandable_segments:True,max_split_size_mb:64"]
