"""Messages between the meta-controller, `joint` and `shadow`, in groups that link their worlds.

A message is a header, then tensors: all of it broadcast from rank 0 of the group, out of and into
memory of the group's device, which is the host's for gloo.
"""

from typing import Protocol

import torch

from coop_rl.errors import VersionError
from coop_rl.learner.engine import TrainingEngine
from coop_rl.tracing.trace import span

ROOT = 0
"""Rank of the sender in each group."""


class BroadcastGroup(Protocol):
    """A member of such a group: `coop_rl.weights.process_group.PeerGroup`, as far as used here."""

    device: torch.device
    """Where tensors must lie to be sent and received."""

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> None:
        """Send `tensor` from `src` into the same-sized tensor of all others, in place."""
        ...


def send_w(group: BroadcastGroup, version: int, flat: torch.Tensor) -> None:
    """Push w; `version` counts the pushes, this one included."""
    group.broadcast(torch.tensor([version, flat.numel()], dtype=torch.int64), ROOT)
    group.broadcast(flat.detach().to("cpu", torch.float32).contiguous(), ROOT)


def receive_w(group: BroadcastGroup, expected_version: int, numel: int) -> torch.Tensor:
    """Receive a push of w.

    Raises:
        VersionError: It is not the push expected next, or is of another size.
    """
    header = torch.zeros(2, dtype=torch.int64)
    group.broadcast(header, ROOT)
    version, got_numel = header.tolist()
    # Received in full before it is refused, so that the sender and the other members go on.
    flat = torch.empty(got_numel, dtype=torch.float32)
    group.broadcast(flat, ROOT)
    if version != expected_version or got_numel != numel:
        raise VersionError(
            f"received adapter version {version} with {got_numel} values, "
            f"expected version {expected_version} with {numel}"
        )
    return flat


@span("re-sync")
def send_state(
    group: BroadcastGroup,
    engine: TrainingEngine,
    theta_version: int,
    *,
    has_gradient: bool,
    has_moments: bool,
) -> None:
    """Send this rank's part of theta and, if wanted, of its optimiser state and its gradient."""
    header = torch.tensor([theta_version, has_gradient, has_moments], dtype=torch.int64)
    group.broadcast(header.to(group.device), ROOT)
    for tensor in _tensors(engine, has_gradient=has_gradient, has_moments=has_moments):
        group.broadcast(tensor.detach().to(group.device).contiguous(), ROOT)


@span("re-sync")
@torch.no_grad()
def receive_state(group: BroadcastGroup, engine: TrainingEngine, theta_version: int) -> bool:
    """Receive what `send_state` sends into the shadow; return whether a gradient came along.

    Raises:
        VersionError: The sender is at another step.
    """
    header = torch.zeros(3, dtype=torch.int64, device=group.device)
    group.broadcast(header, ROOT)
    version, has_gradient, has_moments = header.tolist()
    for tensor in _tensors(engine, has_gradient=bool(has_gradient), has_moments=bool(has_moments)):
        received = torch.empty(tensor.shape, dtype=tensor.dtype, device=group.device)
        group.broadcast(received, ROOT)
        tensor.copy_(received)
    engine.refresh_weights()
    if version != theta_version:
        raise VersionError(f"re-sync got theta version {version}, the shadow is at {theta_version}")
    return bool(has_gradient)


@span("theta to the shadow")
def send_masters(group: BroadcastGroup, engine: TrainingEngine) -> None:
    """Send this rank's masters of theta, which a bracket of rounded weights needs at the shadow."""
    for tensor in engine.master_tensors():
        group.broadcast(tensor.to(group.device).contiguous(), ROOT)


@span("theta to the shadow")
def receive_masters(group: BroadcastGroup, engine: TrainingEngine) -> list[torch.Tensor]:
    """Return what `send_masters` sends, in host memory; the masters of `engine` stay."""
    masters = []
    for own in engine.master_tensors():
        received = torch.empty(own.shape, dtype=own.dtype, device=group.device)
        group.broadcast(received, ROOT)
        masters.append(received.to("cpu"))
    return masters


def _tensors(
    engine: TrainingEngine, *, has_gradient: bool, has_moments: bool
) -> list[torch.Tensor]:
    """Return what a re-sync copies, the same on both sides: their ranks and stages are equal."""
    theta = engine.state_tensors() if has_moments else engine.master_tensors()
    return theta + (engine.gradient_tensors() if has_gradient else [])
