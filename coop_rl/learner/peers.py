"""Messages between the meta-controller, `joint` and `shadow`, in groups that link their worlds.

Each message is a header and then tensors, all broadcast from rank 0 of the group through host
memory.
"""

from typing import Protocol

import torch

from coop_rl.errors import VersionError
from coop_rl.learner.engine import TrainingEngine
from coop_rl.tracing.trace import span

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
def send_state(
    group: BroadcastGroup, engine: TrainingEngine, theta_version: int, *, has_gradient: bool
) -> None:
    """Send this rank's part of theta, of its optimiser state and, if wanted, of its gradient."""
    header = torch.tensor([theta_version, has_gradient], dtype=torch.int64)
    group.broadcast(header, SOURCE)
    for tensor in _parts(engine, has_gradient=has_gradient):
        group.broadcast(tensor.detach().to("cpu").contiguous(), SOURCE)


@span("re-sync")
@torch.no_grad()
def receive_state(group: BroadcastGroup, engine: TrainingEngine, theta_version: int) -> bool:
    """Receive it into the shadow, whose gradient it replaces; return whether one came.

    Raises:
        VersionError: The sender is at another step.
    """
    header = torch.zeros(2, dtype=torch.int64)
    group.broadcast(header, SOURCE)
    version, has_gradient = header.tolist()
    for tensor in _parts(engine, has_gradient=bool(has_gradient)):
        received = torch.empty(tensor.shape, dtype=tensor.dtype)
        group.broadcast(received, SOURCE)
        tensor.copy_(received)
    engine.refresh_weights()
    if version != theta_version:
        raise VersionError(f"re-sync got theta version {version}, the shadow is at {theta_version}")
    return bool(has_gradient)


def _parts(engine: TrainingEngine, *, has_gradient: bool) -> list[torch.Tensor]:
    """Return what a re-sync copies, the same on both sides: their ranks and stages are equal."""
    return engine.state_tensors() + (engine.gradient_tensors() if has_gradient else [])
