"""fp32 masters of theta and their AdamW, whole on every rank: what ZeRO 0 steps.

The masters of fp32 weights are the weights themselves. 16-bit weights have copies as masters, and
their gradients add up in fp32: each leaves its weight as soon as a backward pass has it complete.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import nn

from coop_rl.learner.engine import EngineSettings, State, fill_state


class WholeMasters:
    """The masters of a module's weights, in the weights' order."""

    def __init__(self, weights: Sequence[nn.Parameter], settings: EngineSettings) -> None:
        """Take the weights' values; from now on their gradients go to the masters."""
        self._of = {w: w if w.dtype == torch.float32 else w.detach().float() for w in weights}
        self.masters: list[torch.Tensor] = list(self._of.values())
        self.optimizer = torch.optim.AdamW(
            self.masters,
            lr=0.0,  # set at every step
            betas=settings.optimizer.betas,
            weight_decay=settings.optimizer.weight_decay,
            fused=True,  # one pass over the state: an eighth of the time on a CPU core
        )
        self._copied = [(w, master) for w, master in self._of.items() if w is not master]
        for weight, master in self._copied:
            hook = partial(_hand_over, master)
            weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def states(self) -> list[State]:
        """Return AdamW's state of every master, made as its first step would make it."""
        for master in self.masters:
            fill_state(self.optimizer.state[master], master)
        return [self.optimizer.state[master] for master in self.masters]

    def full(self, weight: nn.Parameter, moment: str | None = None) -> torch.Tensor:
        """Return the master of a weight, or one of its moments."""
        master = self._of[weight]
        full: torch.Tensor = master if moment is None else self.optimizer.state[master][moment]
        return full.detach()

    def part(self, weight: nn.Parameter, moment: str | None) -> tuple[int, torch.Tensor]:
        """Return the first index and the values of what is here of it: all, live."""
        return 0, self.full(weight, moment)

    def gradients(self) -> list[torch.Tensor]:
        """Return the accumulated gradients themselves."""
        return gradients_of(self.masters)

    def zero_grad(self) -> None:
        """Forget the accumulated gradients."""
        self.optimizer.zero_grad()

    @torch.no_grad()
    def refresh(self) -> None:
        """Carry changed masters over to the weights."""
        for weight, master in self._copied:
            weight.copy_(master)


def gradients_of(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients themselves."""
    gradients = [tensor.grad for tensor in tensors]
    assert all(g is not None for g in gradients), "a parameter took no part in the loss"
    return [g for g in gradients if g is not None]


@torch.no_grad()
def _hand_over(master: torch.Tensor, weight: torch.Tensor) -> None:
    """Add a weight's gradient to its master's."""
    assert weight.grad is not None
    if master.grad is None:
        master.grad = weight.grad.float()
    else:
        master.grad.add_(weight.grad)
    weight.grad = None
