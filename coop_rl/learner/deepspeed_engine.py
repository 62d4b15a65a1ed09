"""theta on DeepSpeed ZeRO 0-3; the only module that imports deepspeed.

Gradients accumulate over any number of `backward` calls (`managed_gradient_accumulation: false`)
and one `step` ends them. Where they and the optimiser's state lie in between differs by stage:
at stage 0 masters, reduction, clipping and the guard against non-finite gradients are ours
(`whole_masters`), at stages 1 to 3 they are DeepSpeed's (`zero_storage`).

DeepSpeed averages over ranks; our losses carry global denominators, so they are multiplied by the
number of ranks.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from coop_rl.errors import ConfigError
from coop_rl.learner.deepspeed_config import deepspeed_config
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
    live_state,
    swap_states,
    take,
)
from coop_rl.learner.whole_masters import WholeMasters
from coop_rl.learner.world import limit_all_groups
from coop_rl.learner.zero_storage import ZeroStorage
from coop_rl.models import TokenScores, checkpoint_name
from coop_rl.models.policy import inputs_of
from coop_rl.types import TokenGrid

TESTED_VERSION = "0.19."
KINDS: tuple[tuple[str, str | None], ...] = (
    (MASTER, None),
    *((f"{moment}/", moment) for moment in MOMENTS),
)
"""Prefix in a state's keys, and the moment it stands for; None: the master."""


class DeepSpeedEngine:
    """One rank of a learner group; `init_world` must have been called."""

    def __init__(self, module: nn.Module, settings: EngineSettings, timeout_s: float) -> None:
        """Split `module` and its optimiser over the ranks.

        Args:
            module: The policy, with the adapter attached already; whole, or at stage 3 split
                already (`learner.partition`).
            settings: Optimiser and ZeRO stage.
            timeout_s: Limit of every collective.
        """
        self._stage = settings.zero_stage
        self._stash: list[State] = []
        self._settings = settings
        deepspeed = import_deepspeed()
        self._params = [(checkpoint_name(n), p) for n, p in module.named_parameters()]
        # Taken now: ZeRO-3 empties the parameters it partitions, and then says what they were.
        self._metadata = [
            (name, tuple(vars(p).get("ds_shape", p.shape))) for name, p in self._params
        ]
        weights = [p for _, p in self._params]
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._build_optimizer if self._stage == 0 else None,
            model_parameters=weights,
            config=deepspeed_config(
                settings,
                sum(prod(shape) for _, shape in self._metadata),
                has_streams=torch.cuda.is_available(),
            ),
            dist_init_required=False,
        )
        limit_all_groups(timeout_s)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(self._engine.device)
        self.loss_factor = float(self.world_size)
        self._storage: WholeMasters | ZeroStorage
        if self._stage == 0:
            self._engine.enable_backward_allreduce = False
            self._storage = self._whole_masters
        else:
            self._storage = ZeroStorage(
                self._engine.optimizer, deepspeed.utils, self._stage, weights, self.rank
            )

    def _build_optimizer(self, weights: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Stage 0: take masters of the weights, which are on the device by now."""
        self._whole_masters = WholeMasters(weights, self._settings)
        return self._whole_masters.optimizer

    def __call__(self, grid: TokenGrid) -> TokenScores:
        """Score tokens."""
        scores: TokenScores = self._engine(*inputs_of(self._engine.module, grid, self.device))
        return scores

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, summed over the ranks."""
        self._engine.backward(loss * self.loss_factor)

    def scale_gradient(self, factor: float) -> None:
        """Multiply the accumulated gradient by `factor`, wherever it lies."""
        for tensor in self.gradient_tensors():
            tensor.mul_(factor)

    def gradient_tensors(self) -> list[torch.Tensor]:
        """Return the tensors that hold the accumulated gradient."""
        return self._storage.gradients()

    def gradient_parts(self) -> list[torch.Tensor]:
        """Return copies of this rank's parts of the accumulated gradient, one for each master."""
        if isinstance(self._storage, WholeMasters):
            return [whole for owner, whole in self._reduced() if owner == self.rank]
        if self._stage == 1:
            return [self._partition()]
        groups = self._storage.gradient_groups()
        flat = [torch.cat([t.detach().float().reshape(-1) for t in parts]) for parts in groups]
        return [
            nn.functional.pad(part, (0, master.numel() - part.numel()))
            for part, master in zip(flat, self._storage.masters, strict=True)
        ]

    def _reduced(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (owning rank, reduced gradient) of every parameter; stages 0 and 1."""
        for index, gradient in enumerate(self.gradient_tensors()):
            whole = gradient.detach().clone()
            self.all_reduce_sum(whole)
            yield index % self.world_size, whole.div_(self.world_size)

    def _partition(self) -> torch.Tensor:
        """Return this rank's slice of the flat gradient, where stage 1 keeps its masters."""
        part = torch.zeros_like(self._storage.masters[0])
        start = self.rank * part.numel()
        offset = 0
        for _, whole in self._reduced():
            low, high = max(start, offset), min(start + part.numel(), offset + whole.numel())
            if low < high:
                part[low - start : high - start] = whole.reshape(-1)[low - offset : high - offset]
            offset += whole.numel()
        return part

    def _own_masters(self) -> list[torch.Tensor]:
        """Return this rank's masters; at stage 0, where all have all, the ranks share them out."""
        masters = self._storage.masters
        return masters[self.rank :: self.world_size] if self._stage == 0 else masters

    def master_parts(self) -> list[torch.Tensor]:
        """Return this rank's masters."""
        return [master.detach() for master in self._own_masters()]

    def moment_parts(self) -> list[OptimizerMoments]:
        """Return their moments."""
        states = [self._storage.optimizer.state[master] for master in self._own_masters()]
        return [OptimizerMoments(state["exp_avg"], state["exp_avg_sq"]) for state in states]

    def num_updates(self) -> int:
        """Return AdamW's step count."""
        return int(self._storage.optimizer.state[self._storage.masters[0]]["step"])

    @contextmanager
    def computing_with(self, masters: Iterable[torch.Tensor]) -> Iterator[None]:
        """Compute with other masters meanwhile; the own ones are in host memory."""
        kept = []
        for master, value in zip(self.master_tensors(), masters, strict=True):
            kept.append(master.to("cpu", copy=True))
            master.copy_(value)
        self.refresh_weights()
        yield
        for master, value in zip(self.master_tensors(), kept, strict=True):
            master.copy_(value)
        self.refresh_weights()

    @contextmanager
    def shifted(self, parts: Sequence[torch.Tensor], factor: float) -> Iterator[None]:
        """Compute with theta + factor * parts meanwhile."""
        pairs = zip(self.master_tensors(), self._whole(parts), strict=True)
        moved = (master.add(part.view_as(master), alpha=factor) for master, part in pairs)
        with self.computing_with(moved):
            yield

    def _whole(self, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield `parts` cut like the masters, which stage 0 holds whole on every rank."""
        remaining = iter(parts)
        for index, master in enumerate(self._storage.masters):
            if self._stage > 0 or index % self.world_size == self.rank:
                part = next(remaining)
            else:
                part = torch.zeros_like(master)
            if self._stage == 0 and self.world_size > 1:
                part = part.clone()
                self.all_reduce_sum(part)
            yield part

    @torch.no_grad()
    def swap_optimizer_state(self) -> None:
        """Exchange AdamW's state with the second one, part by part on every rank."""
        swap_states(self._storage.states(), self._stash)

    def offload_moments(self, device: torch.device) -> None:
        """Move the moments."""
        if self._stage in (1, 2):
            raise ConfigError(
                f"shadow.offload needs learner.zero_stage 0 or 3, got {self._stage}: DeepSpeed "
                "keeps views of the optimiser state at stages 1 and 2"
            )
        for state in self._storage.states():
            for moment in MOMENTS:
                state[moment].data = state[moment].data.to(device)

    def zero_grad(self) -> None:
        """Forget the accumulated gradient."""
        self._storage.zero_grad()

    def step(self, lr: float) -> StepStats:
        """Clip and update on all ranks, or skip on all."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if isinstance(self._storage, WholeMasters):
            return self._step_whole(self._storage)
        self._engine.step()
        return StepStats(
            float(self._engine.get_global_grad_norm()), bool(self._engine.was_step_applied())
        )

    def _step_whole(self, storage: WholeMasters) -> StepStats:
        if self.world_size > 1:
            self._engine.buffered_allreduce_fallback(storage.gradients())
        # The reduced gradients are the same on all ranks, hence so is the verdict.
        limit = self._settings.optimizer.max_grad_norm
        norm = nn.utils.clip_grad_norm_(storage.masters, limit)
        is_applied = bool(torch.isfinite(norm))
        if is_applied:
            self._engine.step()
            storage.refresh()
        self.zero_grad()
        return StepStats(float(norm), is_applied)

    def metadata(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Return (checkpoint name, full shape) of every parameter."""
        return self._metadata

    def full_parameters(self) -> NamedTensors:
        """Yield the full fp32 parameters, gathering one at a time."""
        for name, parameter in self._params:
            if 0 < self._stage < 3 and not self._settings.is_bfloat16:
                yield name, parameter.detach()
            else:
                yield name, self._storage.full(parameter)

    def export_state(self) -> NamedTensors:
        """Yield step count, masters and moments, gathering one at a time."""
        step = self._storage.states()[0]["step"]
        yield NUM_STEPS, step.to("cpu", torch.int64).view(1)
        for (_, parameter), (name, shape) in zip(self._params, self._metadata, strict=True):
            yield MASTER + name, self._storage.full(parameter).view(shape)
            for moment in MOMENTS:
                yield f"{moment}/{name}", self._storage.full(parameter, moment).view(shape)

    @torch.no_grad()
    def import_state(self, tensors: NamedTensors) -> None:
        """Overwrite step count, masters and moments; each rank keeps its part."""
        num_steps = int(take(tensors, NUM_STEPS, (1,)))
        for state in self._storage.states():
            state["step"].fill_(num_steps)
        for part in self._parts():
            whole = take(tensors, part.key, part.shape).reshape(-1)
            own = whole[part.start : part.start + part.values.numel()]
            part.values.copy_(own.view_as(part.values))
        self.refresh_weights()

    def export_parts(self) -> Iterator[StatePart]:
        """Yield this rank's parts; at stage 0, where all have all, the ranks share them out."""
        step = self._storage.states()[0]["step"]
        if self.rank == 0:
            yield StatePart(NUM_STEPS, (1,), 0, step.to("cpu", torch.int64).view(1))
        for index, part in enumerate(self._parts()):
            is_own = self._stage > 0 or index // len(KINDS) % self.world_size == self.rank
            if is_own and part.values.numel():
                yield part

    @torch.no_grad()
    def import_parts(self, read: ReadValues) -> None:
        """Overwrite step count, masters and moments by what this rank needs of them."""
        num_steps = int(read(NUM_STEPS, (1,), 0, 1))
        for state in self._storage.states():
            state["step"].fill_(num_steps)
        for key, shape, start, values in self._parts():
            if values.numel():
                values.copy_(read(key, shape, start, values.numel()).view_as(values))
        self.refresh_weights()

    def _parts(self) -> Iterator[StatePart]:
        """Yield what this rank holds of every master and its moments, live, perhaps nothing."""
        for (_, parameter), (name, shape) in zip(self._params, self._metadata, strict=True):
            for prefix, moment in KINDS:
                start, values = self._storage.part(parameter, moment)
                yield StatePart(prefix + name, shape, start, values)

    def master_tensors(self) -> list[torch.Tensor]:
        """Return this rank's masters."""
        return [master.detach() for master in self._storage.masters]

    def state_tensors(self) -> list[torch.Tensor]:
        """Return this rank's masters with their AdamW state."""
        return live_state(self._storage.masters, self._storage.states())

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Sum over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def refresh_weights(self) -> None:
        """Carry changed masters over to the weights the module computes with."""
        self._storage.refresh()


def import_deepspeed() -> Any:
    """Import it quietly, without its compiled CPU collective, for the device at hand."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not deepspeed.__version__.startswith(TESTED_VERSION):
        raise ConfigError(
            f"deepspeed {deepspeed.__version__} is installed, the engine's use of its internals is "
            f"tested with {TESTED_VERSION}x; install that"
        )
    # Only inference kernels use this op; declared absent, the CPU path needs no compiler, and no
    # build lock left by a killed process can hang the start.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    return deepspeed
