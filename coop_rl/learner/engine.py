"""What a learner asks of whatever holds theta: `LocalEngine` (plain torch) or `DeepSpeedEngine`.

Every method but `metadata` is a collective: all ranks of a learner group call it together, in the
same order and the same number of times.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol, Self

import torch

from coop_rl.config import RunConfig
from coop_rl.config.optimizer import OptimizerSection
from coop_rl.config.sizes import zero_stage
from coop_rl.errors import RunError
from coop_rl.models import TokenScores
from coop_rl.types import TokenGrid

NamedTensors = Iterator[tuple[str, torch.Tensor]]
PERSISTENCE_THRESHOLD_VALUES = 100_000
NUM_STEPS = "num_steps"
MASTER = "master/"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The optimiser of theta and how its state is split."""

    optimizer: OptimizerSection
    """AdamW's betas and decay, and clipping; the rate comes with every step."""
    zero_stage: int = 0
    is_bfloat16: bool = False
    """Weights and activations in bf16; masters, moments and accumulated gradients stay fp32."""
    persistence_threshold_values: int = PERSISTENCE_THRESHOLD_VALUES
    """ZeRO-3 keeps parameters of fewer values whole on every rank."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Take the sections `learner` and `model`."""
        return cls(config.learner, zero_stage(config), config.model.dtype == "bfloat16")


@dataclass(frozen=True, slots=True)
class StepStats:
    """One optimiser step."""

    grad_norm: float
    """Before clipping; inf or nan when the step was skipped."""
    is_applied: bool
    """False when a non-finite gradient made every rank skip."""


class OptimizerMoments(NamedTuple):
    """One part of AdamW's state, flat or shaped like its part of the gradient."""

    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


class StatePart(NamedTuple):
    """What one rank holds of one tensor of the state."""

    key: str
    """Of the whole tensor, as in `state_layout`."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    """Index of the first value in the whole tensor, flattened."""
    values: torch.Tensor


ReadValues = Callable[[str, tuple[int, ...], int, int], torch.Tensor]
"""Returns, of the tensor with a key and a shape, so many values from an index on, flat."""


class TrainingEngine(Protocol):
    """theta, its gradient and its optimiser, whatever they are split over."""

    rank: int
    world_size: int
    device: torch.device
    loss_factor: float
    """What `backward` multiplies losses by; the adapter's gradients carry it, theta's do not."""

    def __call__(self, grid: TokenGrid) -> TokenScores:
        """Score tokens (see `PolicyModel.forward`); the grid may be on another device."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss, summed over the ranks, to theta's.

        The loss is this rank's share, normalised by global counts.
        """
        ...

    def scale_gradient(self, factor: float) -> None:
        """Multiply theta's accumulated gradient by `factor`."""
        ...

    def gradient_tensors(self) -> list[torch.Tensor]:
        """Return what holds this rank's accumulated gradient, themselves.

        After the same passes an engine of the same rank, size and stage has the same ones.
        """
        ...

    def gradient_parts(self) -> list[torch.Tensor]:
        """Return copies of this rank's parts of theta's accumulated gradient, fp32.

        Over all ranks every value occurs exactly once, always on the same rank at the same index:
        dot products are local sums plus one `all_reduce_sum`. Cut like `moment_parts`.
        """
        ...

    def moment_parts(self) -> list[OptimizerMoments]:
        """Return this rank's parts of AdamW's moments, live; valid after the first step."""
        ...

    def master_parts(self) -> list[torch.Tensor]:
        """Return this rank's parts of theta's fp32 masters, live; cut like `moment_parts`."""
        ...

    def num_updates(self) -> int:
        """Return AdamW's step count t."""
        ...

    def computing_with(self, masters: Iterable[torch.Tensor]) -> AbstractContextManager[None]:
        """Compute with other masters meanwhile, which are cut like `master_tensors`.

        They are taken one by one, each before its own is overwritten, so that they may depend on
        it. The own ones wait in host memory.
        """
        ...

    def shifted(self, parts: Sequence[torch.Tensor], factor: float) -> AbstractContextManager[None]:
        """Compute with theta + factor * parts meanwhile; `parts` cut like `gradient_parts`."""
        ...

    def swap_optimizer_state(self) -> None:
        """Exchange AdamW's state with a second one, which starts at zero."""
        ...

    def offload_moments(self, device: torch.device) -> None:
        """Keep AdamW's moments on `device` until they are moved back.

        Raises:
            ConfigError: The ZeRO stage hands out views of them.
        """
        ...

    def zero_grad(self) -> None:
        """Forget theta's accumulated gradient."""
        ...

    def step(self, lr: float) -> StepStats:
        """Clip, update theta (all ranks or none), and forget the gradient."""
        ...

    def metadata(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Return (checkpoint name, full shape) of every parameter, without communication."""
        ...

    def full_parameters(self) -> NamedTensors:
        """Yield (checkpoint name, full fp32 tensor) in the order of `metadata`, one at a time.

        A yielded tensor may be the live parameter: read it before the next step, never write it.
        """
        ...

    def export_state(self) -> NamedTensors:
        """Yield what `state_layout` lists, full tensors, one at a time: an exact copy of theta."""
        ...

    def import_state(self, tensors: NamedTensors) -> None:
        """Become the exporter's exact copy; `tensors` in the order of `state_layout`."""
        ...

    def export_parts(self) -> Iterator[StatePart]:
        """Yield this rank's parts of what `export_state` yields, themselves; no communication.

        Over all ranks every value occurs exactly once.
        """
        ...

    def import_parts(self, read: ReadValues) -> None:
        """Become an exact copy of what `read` knows; asks it for this rank's values alone."""
        ...

    def master_tensors(self) -> list[torch.Tensor]:
        """Return this rank's fp32 masters of theta, themselves; no collective.

        An engine of the same rank, size and stage has the same ones. Where they are overwritten,
        `refresh_weights` has to follow.
        """
        ...

    def state_tensors(self) -> list[torch.Tensor]:
        """Return the masters with their AdamW state, as `master_tensors` does."""
        ...

    def refresh_weights(self) -> None:
        """Carry overwritten masters over to the weights the module computes with."""
        ...

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Sum `tensor` over the ranks, in place."""
        ...


def state_layout(
    metadata: Sequence[tuple[str, tuple[int, ...]]],
) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Return (key, shape, type) of everything `export_state` yields, in order."""
    layout: list[tuple[str, tuple[int, ...], torch.dtype]] = [(NUM_STEPS, (1,), torch.int64)]
    for name, shape in metadata:
        layout.append((MASTER + name, shape, torch.float32))
        layout += [(f"{moment}/{name}", shape, torch.float32) for moment in MOMENTS]
    return layout


def take(tensors: NamedTensors, key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the next tensor of an import.

    Raises:
        RunError: It is not the one expected.
    """
    got, tensor = next(tensors, ("nothing", torch.empty(0)))
    if got != key or tensor.numel() != prod(shape):
        raise RunError(
            f"learner state holds {got} of shape {tuple(tensor.shape)} where {key} of shape "
            f"{shape} is expected; it was written for another model"
        )
    return tensor.view(shape)


State = dict[str, Any]
"""AdamW's state of one parameter: step, exp_avg, exp_avg_sq."""


def fill_state(state: State, master: torch.Tensor) -> None:
    """Make AdamW's state as its first step would, unless it is there."""
    if not state:
        state["step"] = torch.zeros((), device=master.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(master)


def live_state(masters: Sequence[torch.Tensor], states: Sequence[State]) -> list[torch.Tensor]:
    """Return each master, its step count and its moments."""
    keys = ("step", *MOMENTS)
    return [
        tensor
        for master, state in zip(masters, states, strict=True)
        for tensor in (master.detach(), *(state[key] for key in keys))
    ]


def swap_states(states: Sequence[State], stash: list[State]) -> None:
    """Exchange the contents of AdamW's states with `stash`, which is filled with zeros at first.

    Contents, because ZeRO keeps views of the tensors.
    """
    if not stash:
        stash += [{key: torch.zeros_like(value) for key, value in s.items()} for s in states]
    for state, other in zip(states, stash, strict=True):
        for key, value in state.items():
            kept = value.clone()
            value.copy_(other[key])
            other[key].copy_(kept)
