"""A receiver in a process of its own, in a module that starts without vLLM's imports."""

from typing import Any

import torch

from coop_rl.weights.process_group import PeerGroup
from coop_rl.weights.wire import Offer, SharedMemory, agreed

PAYLOAD = torch.arange(2_500).to(torch.uint8)


def receive_twice(
    rank: int, port: int, offer: dict[str, Any], device: torch.device | None, pipe: Any
) -> None:
    """Receive a payload over memory of `device`; None: it finds none."""
    group = PeerGroup.join("127.0.0.1", port, rank, 3, 60.0, "test")
    memory = SharedMemory.open(Offer(**offer), device) if device else None
    wire = agreed(group, memory, is_offered=True)
    for _ in range(2):
        got = torch.zeros_like(PAYLOAD, device=wire.device)
        wire.payload(got, "a payload")
        pipe.send((wire.shares_memory, torch.equal(got.cpu(), PAYLOAD)))
    pipe.recv()
