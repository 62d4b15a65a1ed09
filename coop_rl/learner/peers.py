"""Messages between the meta-controller, `joint` and `rl_only`, in groups that link their worlds.

Each message is a header and then tensors, all broadcast from rank 0 of the group through host
memory.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from coop_rl.errors import VersionError
from coop_rl.learner.engine import NamedTensors, TrainingEngine, state_layout
from coop_rl.observability.trace import span

GUIDANCE_GROUP = "guidance"
"""Meta-controller (rank 0) to every learner rank: w."""
RESYNC_GROUP = "resync"
"""Rank 0 of `joint` (rank 0) to every rank of `rl_only`: theta and its optimiser state."""
SOURCE = 0


class BroadcastGroup(Protocol):
    """What is used of `coop_rl.weights.process_group.PeerGroup`."""

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> None:
        """Send `tensor` from `src` into the same-sized tensor of all others, in place."""
        ...


def send_adapter(group: BroadcastGroup, version: int, flat: torch.Tensor) -> None:
    """Push w; `version` counts the pushes, this one included."""
    group.broadcast(torch.tensor([version, flat.numel()], dtype=torch.int64), SOURCE)
    group.broadcast(flat.detach().to("cpu", torch.float32).contiguous(), SOURCE)


def receive_adapter(group: BroadcastGroup, expected_version: int, numel: int) -> torch.Tensor:
    """Receive a push of w.

    Raises:
        VersionError: It is not the push expected next, or is of another size.
    """
    header = torch.zeros(2, dtype=torch.int64)
    group.broadcast(header, SOURCE)
    version, got_numel = header.tolist()
    # Received in full before it is refused, so that the sender and the other members go on.
    flat = torch.empty(got_numel, dtype=torch.float32)
    group.broadcast(flat, SOURCE)
    if version != expected_version or got_numel != numel:
        raise VersionError(
            f"received adapter version {version} with {got_numel} values, "
            f"expected version {expected_version} with {numel}"
        )
    return flat


@span("re-sync")
def send_state(group: BroadcastGroup | None, engine: TrainingEngine, theta_version: int) -> None:
    """Send theta and its optimiser state; all `joint` ranks call it, rank 0 has the group."""
    if group is not None:
        group.broadcast(torch.tensor([theta_version], dtype=torch.int64), SOURCE)
    for _, tensor in engine.export_state():
        if group is not None:
            group.broadcast(tensor.detach().to("cpu").contiguous(), SOURCE)


@span("re-sync")
def receive_state(group: BroadcastGroup, engine: TrainingEngine, theta_version: int) -> None:
    """Receive it into the shadow; every rank of `rl_only` calls it.

    Raises:
        VersionError: The sender is at another step.
    """
    header = torch.zeros(1, dtype=torch.int64)
    group.broadcast(header, SOURCE)
    engine.import_state(_incoming(group, state_layout(engine.metadata())))
    if header.item() != theta_version:
        raise VersionError(
            f"re-sync got theta version {header.item()}, the shadow is at {theta_version}"
        )


def _incoming(
    group: BroadcastGroup, layout: Sequence[tuple[str, tuple[int, ...], torch.dtype]]
) -> NamedTensors:
    for key, shape, dtype in layout:
        tensor = torch.empty(shape, dtype=dtype)
        group.broadcast(tensor, SOURCE)
        yield key, tensor
