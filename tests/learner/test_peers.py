"""Messages between the branches lie where their group can send them from."""

from dataclasses import dataclass, field

import torch

from coop_rl.learner import peers


@dataclass
class Recorder:
    """A group of a device that this machine lacks; meta tensors have no values to send."""

    device: torch.device = field(default_factory=lambda: torch.device("meta"))
    sent: list[torch.device] = field(default_factory=list)

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> None:
        self.sent.append(tensor.device)


@dataclass
class Engine:
    """Masters on the host, as where they are offloaded."""

    masters: list[torch.Tensor]

    def master_tensors(self) -> list[torch.Tensor]:
        return self.masters

    def state_tensors(self) -> list[torch.Tensor]:
        return [*self.masters, torch.ones(2)]

    def gradient_tensors(self) -> list[torch.Tensor]:
        return [torch.ones(3)]


def test_theta_travels_from_the_device_of_its_group() -> None:
    group, engine = Recorder(), Engine([torch.ones(2, 2), torch.ones(3)])
    peers.send_masters(group, engine)  # type: ignore[arg-type]
    peers.send_state(group, engine, 4, has_gradient=True, has_moments=True)  # type: ignore[arg-type]
    # Two masters; then a header, masters and moments, a gradient.
    assert group.sent == [torch.device("meta")] * (2 + 1 + 3 + 1)
