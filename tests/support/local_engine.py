"""theta in plain torch, one process: the reference that DeepSpeed is measured against."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import nn

from coop_rl.learner.engine import (
    MASTER,
    MOMENTS,
    NUM_STEPS,
    EngineSettings,
    NamedTensors,
    OptimizerMoments,
    ReadValues,
    State,
    StatePart,
    StepStats,
    fill_state,
    live_state,
    state_layout,
    swap_states,
    take,
)
from coop_rl.models import TokenScores, checkpoint_name
from coop_rl.models.policy import inputs_of
from coop_rl.types import TokenGrid


class LocalEngine:
    """AdamW on the module's own parameters."""

    rank = 0
    world_size = 1
    loss_factor = 1.0

    def __init__(self, module: nn.Module, settings: EngineSettings) -> None:
        """Train `module` where it is."""
        self._module = module
        self._settings = settings
        self._params = {checkpoint_name(name): p for name, p in module.named_parameters()}
        self.device = next(module.parameters()).device
        self._stash: list[State] = []
        self._optimizer = torch.optim.AdamW(
            self._params.values(),
            betas=settings.optimizer.betas,
            weight_decay=settings.optimizer.weight_decay,
            fused=True,
        )

    def __call__(self, grid: TokenGrid) -> TokenScores:
        """Score tokens."""
        scores: TokenScores = self._module(*inputs_of(self._module, grid, self.device))
        return scores

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`."""
        loss.backward()

    def scale_gradient(self, factor: float) -> None:
        """Multiply the accumulated gradient by `factor`."""
        for gradient in self.gradient_tensors():
            gradient.mul_(factor)

    def gradient_tensors(self) -> list[torch.Tensor]:
        """Return every parameter's gradient."""
        for parameter in self._params.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self._params.values() if p.grad is not None]

    def gradient_parts(self) -> list[torch.Tensor]:
        """Return a copy of the accumulated gradient."""
        return [gradient.clone() for gradient in self.gradient_tensors()]

    def moment_parts(self) -> list[OptimizerMoments]:
        """Return the moments of every parameter."""
        states = [self._state(p) for p in self._params.values()]
        return [OptimizerMoments(state["exp_avg"], state["exp_avg_sq"]) for state in states]

    def master_parts(self) -> list[torch.Tensor]:
        """Return the parameters."""
        return self.master_tensors()

    def num_updates(self) -> int:
        """Return AdamW's step count."""
        return int(self._state(next(iter(self._params.values())))["step"])

    @contextmanager
    def computing_with(self, masters: Iterable[torch.Tensor]) -> Iterator[None]:
        """Compute with other parameters meanwhile."""
        kept = []
        for parameter, value in zip(self.master_tensors(), masters, strict=True):
            kept.append(parameter.clone())
            parameter.copy_(value)
        yield
        for parameter, value in zip(self.master_tensors(), kept, strict=True):
            parameter.copy_(value)

    @contextmanager
    def shifted(self, parts: Sequence[torch.Tensor], factor: float) -> Iterator[None]:
        """Compute with shifted parameters meanwhile."""
        pairs = zip(self.master_tensors(), parts, strict=True)
        with self.computing_with(p.add(part, alpha=factor) for p, part in pairs):
            yield

    @torch.no_grad()
    def swap_optimizer_state(self) -> None:
        """Exchange AdamW's state with the second one."""
        swap_states([self._state(p) for p in self._params.values()], self._stash)

    def offload_moments(self, device: torch.device) -> None:
        """Move the moments."""
        for parameter in self._params.values():
            state = self._state(parameter)
            for moment in MOMENTS:
                state[moment].data = state[moment].data.to(device)

    def zero_grad(self) -> None:
        """Forget the accumulated gradient."""
        self._optimizer.zero_grad()

    def step(self, lr: float) -> StepStats:
        """Clip and update, unless the gradient is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(
            self._params.values(), self._settings.optimizer.max_grad_norm
        )
        is_applied = bool(torch.isfinite(norm))
        if is_applied:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self.zero_grad()
        return StepStats(float(norm), is_applied)

    def metadata(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Return (checkpoint name, shape) of every parameter."""
        return [(name, tuple(p.shape)) for name, p in self._params.items()]

    def full_parameters(self) -> NamedTensors:
        """Yield the parameters."""
        for name, parameter in self._params.items():
            yield name, parameter.detach().float()

    def export_state(self) -> NamedTensors:
        """Yield step count, parameters and moments."""
        states = [self._state(p) for p in self._params.values()]
        yield NUM_STEPS, states[0]["step"].to(torch.int64).view(1)
        for (name, parameter), state in zip(self._params.items(), states, strict=True):
            yield MASTER + name, parameter.detach()
            for moment in MOMENTS:
                yield f"{moment}/{name}", state[moment]

    @torch.no_grad()
    def import_state(self, tensors: NamedTensors) -> None:
        """Overwrite step count, parameters and moments."""
        num_steps = int(take(tensors, NUM_STEPS, (1,)))
        for name, parameter in self._params.items():
            shape = tuple(parameter.shape)
            parameter.copy_(take(tensors, MASTER + name, shape))
            state = self._state(parameter)
            state["step"].fill_(num_steps)
            for moment in MOMENTS:
                state[moment].copy_(take(tensors, f"{moment}/{name}", shape))

    def export_parts(self) -> Iterator[StatePart]:
        """Yield all of the state."""
        for key, tensor in self.export_state():
            yield StatePart(key, tuple(tensor.shape), 0, tensor)

    def import_parts(self, read: ReadValues) -> None:
        """Read all of the state."""
        layout = state_layout(self.metadata())
        self.import_state((key, read(key, shape, 0, prod(shape))) for key, shape, _ in layout)

    def master_tensors(self) -> list[torch.Tensor]:
        """Return the parameters."""
        return [parameter.detach() for parameter in self._params.values()]

    def state_tensors(self) -> list[torch.Tensor]:
        """Return the parameters with their AdamW state."""
        parameters = list(self._params.values())
        return live_state(parameters, [self._state(p) for p in parameters])

    def refresh_weights(self) -> None:
        """Do nothing: masters are the weights."""

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Sum over one rank: nothing to do."""

    def _state(self, parameter: torch.Tensor) -> State:
        """Return AdamW's state, made as its first step would make it."""
        state: State = self._optimizer.state[parameter]
        fill_state(state, parameter)
        return state
