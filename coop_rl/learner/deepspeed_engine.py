"""theta on DeepSpeed ZeRO 0-3; the only module that imports deepspeed.

Gradients accumulate over any number of `backward` calls (`managed_gradient_accumulation: false`)
and one `step` ends them. Where they lie in between differs by stage, and reading or scaling them
touches DeepSpeed's internals, all of it in this file:

| stage | accumulated gradient | reduced |
|---|---|---|
| 0 | `grad` of the masters (`whole_masters`) | in `step`, by us |
| 1 | `param.grad` | in `step`, by DeepSpeed |
| 2 | own slices of `all_grad_tensors` (bf16: one flat buffer) | in every `backward` |
| 3 | partitions in `averaged_gradients` | in every `backward` |

DeepSpeed averages over ranks; our losses carry global denominators, so they are multiplied by the
number of ranks. Of stage 0 masters, clipping and the guard against non-finite gradients are ours.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    State,
    StepStats,
    fill_state,
    live_state,
    swap_states,
    take,
)
from coop_rl.learner.whole_masters import WholeMasters, gradients_of
from coop_rl.learner.world import limit_all_groups
from coop_rl.models import TokenScores, checkpoint_name
from coop_rl.types import TokenGrid

TESTED_VERSION = "0.19."


class DeepSpeedEngine:
    """One rank of a learner group; `init_world` must have been called."""

    def __init__(self, module: nn.Module, settings: EngineSettings, timeout_s: float) -> None:
        """Split `module` and its optimiser over the ranks.

        Args:
            module: The policy, whole, with the adapter attached already.
            settings: Optimiser and ZeRO stage.
            timeout_s: Limit of every collective.
        """
        self._stage = settings.zero_stage
        self._stash: list[State] = []
        self._settings = settings
        self._is_bfloat16 = settings.is_bfloat16
        deepspeed = _import_deepspeed()
        self._params = [(checkpoint_name(n), p) for n, p in module.named_parameters()]
        # Taken now: ZeRO-3 empties the parameters it partitions.
        self._metadata = [(name, tuple(p.shape)) for name, p in self._params]
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=self._build_optimizer if self._stage == 0 else None,
            model_parameters=[p for _, p in self._params],
            config=deepspeed_config(settings, sum(p.numel() for _, p in self._params)),
            dist_init_required=False,
        )
        if self._stage == 0:
            self._engine.enable_backward_allreduce = False
        limit_all_groups(timeout_s)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.device = torch.device(self._engine.device)
        self.loss_factor = float(self.world_size)

    def _build_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Stage 0: take masters of the weights, which are on the device by now."""
        self._replica = WholeMasters(parameters, self._settings)
        return self._replica.optimizer

    def __call__(self, grid: TokenGrid) -> TokenScores:
        """Score tokens."""
        scores: TokenScores = self._engine(*grid.to(self.device))
        return scores

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, summed over the ranks."""
        self._engine.backward(loss * self.loss_factor)

    def scale_gradient(self, factor: float) -> None:
        """Multiply the accumulated gradient by `factor`, wherever it lies."""
        for tensor in self.gradient_tensors():
            tensor.mul_(factor)

    def gradient_parts(self) -> list[torch.Tensor]:
        """Return copies of own parts of the accumulated gradient, one for every own master."""
        if self._stage == 0:
            return [whole for owner, whole in self._reduced() if owner == self.rank]
        if self._stage == 1:
            return [self._own_partition()]
        if self._stage == 3:
            groups = self._engine.optimizer.averaged_gradients
            grouped = [groups[group] for group in sorted(groups)]
        else:
            grouped = [self.gradient_tensors()]
        flat = [torch.cat([t.detach().float().reshape(-1) for t in parts]) for parts in grouped]
        return [
            nn.functional.pad(part, (0, master.numel() - part.numel()))
            for part, master in zip(flat, self._masters(), strict=True)
        ]

    def _reduced(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (owning rank, reduced gradient) of every parameter; stages 0 and 1."""
        for index, gradient in enumerate(self.gradient_tensors()):
            whole = gradient.detach().clone()
            self.all_reduce_sum(whole)
            yield index % self.world_size, whole.div_(self.world_size)

    def _own_partition(self) -> torch.Tensor:
        """Return this rank's slice of the flat gradient, where stage 1 keeps its masters."""
        own = torch.zeros_like(self._masters()[0])
        start = self.rank * own.numel()
        offset = 0
        for _, whole in self._reduced():
            low, high = max(start, offset), min(start + own.numel(), offset + whole.numel())
            if low < high:
                own[low - start : high - start] = whole.reshape(-1)[low - offset : high - offset]
            offset += whole.numel()
        return own

    def moment_parts(self) -> list[OptimizerMoments]:
        """Return the moments of own masters."""
        masters = self._masters()
        if self._stage == 0:
            masters = masters[self.rank :: self.world_size]
        states = [self._inner_optimizer().state[master] for master in masters]
        return [OptimizerMoments(state["exp_avg"], state["exp_avg_sq"]) for state in states]

    def num_updates(self) -> int:
        """Return AdamW's step count."""
        return int(self._inner_optimizer().state[self._masters()[0]]["step"])

    @contextmanager
    def shifted(self, parts: Sequence[torch.Tensor], factor: float) -> Iterator[None]:
        """Compute with other masters meanwhile."""
        masters = self._masters()
        kept = [master.detach().clone() for master in masters]
        with torch.no_grad():
            for master, part in zip(masters, self._whole(parts), strict=True):
                master.add_(part.view_as(master), alpha=factor)
            self.refresh_weights()
        yield
        with torch.no_grad():
            for master, value in zip(masters, kept, strict=True):
                master.copy_(value)
            self.refresh_weights()

    def _whole(self, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield `parts` cut like the masters, which stage 0 holds whole on every rank."""
        own = iter(parts)
        for index, master in enumerate(self._masters()):
            if self._stage > 0 or index % self.world_size == self.rank:
                part = next(own)
            else:
                part = torch.zeros_like(master)
            if self._stage == 0 and self.world_size > 1:
                part = part.clone()
                self.all_reduce_sum(part)
            yield part

    @torch.no_grad()
    def swap_optimizer_state(self) -> None:
        """Exchange AdamW's state with the second one, part by part on every rank."""
        swap_states(self._states(), self._stash)

    def offload_moments(self, device: torch.device) -> None:
        """Move the moments."""
        if self._stage in (1, 2):
            raise ConfigError(
                f"shadow.offload needs learner.zero_stage 0 or 3, got {self._stage}: DeepSpeed "
                "keeps views of the optimiser state at stages 1 and 2"
            )
        for state in self._states():
            for moment in MOMENTS:
                state[moment].data = state[moment].data.to(device)

    def zero_grad(self) -> None:
        """Forget the accumulated gradient."""
        if self._stage == 0:
            self._replica.zero_grad()
            return
        zero = self._engine.optimizer
        zero.zero_grad()
        if self._stage < 3:
            # zero_grad leaves the reduced sums.
            for group in list(zero.averaged_gradients):
                zero.averaged_gradients[group] = None
            for group in list(zero.all_grad_tensors):
                zero.all_grad_tensors[group] = None

    def step(self, lr: float) -> StepStats:
        """Clip and update on all ranks, or skip on all."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        if self._stage == 0:
            return self._step_replicated()
        self._engine.step()
        return StepStats(
            float(self._engine.get_global_grad_norm()), bool(self._engine.was_step_applied())
        )

    def _step_replicated(self) -> StepStats:
        if self.world_size > 1:
            self._engine.buffered_allreduce_fallback(self._replica.gradients())
        # The reduced gradients are the same on all ranks, hence so is the verdict.
        norm = nn.utils.clip_grad_norm_(self._replica.masters, self._settings.max_grad_norm)
        is_applied = bool(torch.isfinite(norm))
        if is_applied:
            self._engine.step()
            self._replica.refresh()
        self.zero_grad()
        return StepStats(float(norm), is_applied)

    def metadata(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Return (checkpoint name, full shape) of every parameter."""
        return self._metadata

    def full_parameters(self) -> NamedTensors:
        """Yield the full fp32 parameters, gathering one at a time."""
        for name, parameter in self._params:
            if 0 < self._stage < 3 and not self._is_bfloat16:
                yield name, parameter.detach()
            else:
                yield name, self._full(parameter)

    def export_state(self) -> NamedTensors:
        """Yield step count, masters and moments, gathering one at a time."""
        step = self._states()[0]["step"]
        yield NUM_STEPS, step.to("cpu", torch.int64).view(1)
        for (_, parameter), (name, shape) in zip(self._params, self._metadata, strict=True):
            yield MASTER + name, self._full(parameter).view(shape)
            for moment in MOMENTS:
                yield f"{moment}/{name}", self._full(parameter, moment).view(shape)

    @torch.no_grad()
    def import_state(self, tensors: NamedTensors) -> None:
        """Overwrite step count, masters and moments; each rank keeps its part."""
        num_steps = int(take(tensors, NUM_STEPS, (1,)))
        for state in self._states():
            state["step"].fill_(num_steps)
        for (_, parameter), (name, shape) in zip(self._params, self._metadata, strict=True):
            self._overwrite(parameter, take(tensors, MASTER + name, shape), None)
            for moment in MOMENTS:
                self._overwrite(parameter, take(tensors, f"{moment}/{name}", shape), moment)
        self.refresh_weights()

    def state_tensors(self) -> list[torch.Tensor]:
        """Return own masters with their AdamW state."""
        return live_state(self._masters(), self._states())

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Sum over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def gradient_tensors(self) -> list[torch.Tensor]:
        """Return the tensors that hold the accumulated gradient (see the table above)."""
        if self._stage == 0:
            return self._replica.gradients()
        if self._stage == 1:
            return gradients_of(p for _, p in self._params)
        zero = self._engine.optimizer
        if self._stage == 3:
            return [
                part
                for group in sorted(zero.averaged_gradients)
                for part in zero.averaged_gradients[group]
            ]
        parts: list[torch.Tensor] = []
        for i in range(len(zero.bit16_groups)):
            if zero._use_compact_grad_partition_buffer(i):
                parts.append(zero._get_compact_grad_partition_buffer(i).flat_partition)
            else:
                # Views of the valid slices; nothing is copied.
                parts += zero.get_flat_partition(
                    zero.params_in_partition[i],
                    zero.first_offset[i],
                    zero.partition_size[i],
                    dtype=zero.gradient_accumulation_dtype,
                    device=self.device,
                    param_group_idx=i,
                    return_tensor_list=True,
                )
        return parts

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        inner: torch.optim.Optimizer = optimizer if self._stage == 0 else optimizer.optimizer
        return inner

    def _masters(self) -> list[torch.Tensor]:
        """Return the fp32 tensors the inner optimiser updates."""
        if self._stage == 0:
            return self._replica.masters
        zero = self._engine.optimizer
        return list(
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else zero.single_partition_of_fp32_groups
        )

    def _states(self) -> list[State]:
        """Return AdamW's state of every master, made as its first step would make it."""
        inner = self._inner_optimizer()
        for master in self._masters():
            fill_state(inner.state[master], master)
        if self._stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        return [inner.state[master] for master in self._masters()]

    def _full(self, parameter: nn.Parameter, moment: str | None = None) -> torch.Tensor:
        import deepspeed.utils as access

        full: torch.Tensor
        if self._stage == 0:
            full = self._replica.value(parameter, moment)
        elif moment is None:
            full = access.safe_get_full_fp32_param(parameter)
        else:
            full = access.safe_get_full_optimizer_state(parameter, moment)
        return full.detach()

    def _overwrite(self, parameter: nn.Parameter, value: torch.Tensor, moment: str | None) -> None:
        import deepspeed.utils as access

        value = value.to(self.device)
        if self._stage == 0:
            self._full(parameter, moment).copy_(value)
        elif self._stage < 3:
            if moment is None:
                access.safe_set_full_fp32_param(parameter, value)
            else:
                access.safe_set_full_optimizer_state(parameter, value, moment)
        else:
            # The full-tensor setter refuses parameters that do not divide evenly over the ranks.
            share = parameter.ds_tensor.numel()  # type: ignore[attr-defined] # set by ZeRO-3
            padded = torch.zeros(share * self.world_size, device=self.device)
            padded[: value.numel()] = value.reshape(-1)
            own = padded.narrow(0, share * self.rank, share)
            if moment is None:
                access.safe_set_local_fp32_param(parameter, own)
            else:
                access.safe_set_local_optimizer_state(parameter, own, moment)

    def refresh_weights(self) -> None:
        """Carry changed masters over to the weights the module computes with."""
        if self._stage == 0:
            self._replica.refresh()
        zero = self._engine.optimizer
        if self._stage in (1, 2):
            zero.update_lp_params()
        if self._stage == 3:
            # Passes without a backward leave weights gathered, which would go on being used.
            zero._partition_all_parameters()
            for i, master in enumerate(zero.fp32_partitioned_groups_flat):
                zero.fp16_partitioned_groups_flat[i].data.copy_(master.data)
                zero._unflatten_partitioned_parameters(i)
            if persistent := zero.persistent_parameters:
                persistent[0].all_gather(persistent)


def _import_deepspeed() -> Any:
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
