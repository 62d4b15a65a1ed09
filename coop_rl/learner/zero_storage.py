"""Where DeepSpeed's ZeRO 1-3 keeps theta's gradient, masters and AdamW state.

Reading, scaling and overwriting them touches DeepSpeed's internals, all of it here and in
`deepspeed_engine`. `WholeMasters` offers the same of stage 0, where the masters are ours.

| stage | accumulated gradient | reduced |
|---|---|---|
| 1 | `param.grad` | in `step`, by DeepSpeed |
| 2 | this rank's slices of `all_grad_tensors` (bf16: one flat buffer) | in every `backward` |
| 3 | partitions in `averaged_gradients` | in every `backward` |
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from coop_rl.learner.engine import State, fill_state
from coop_rl.learner.whole_masters import gradients_of


class ZeroStorage:
    """This rank's share of them."""

    def __init__(
        self, zero: Any, access: Any, stage: int, weights: Sequence[nn.Parameter], rank: int
    ) -> None:
        """Look into a ZeRO optimiser.

        Args:
            zero: DeepSpeed's wrapper of the optimiser.
            access: The module `deepspeed.utils`, for full and local tensors of one weight.
            stage: 1, 2 or 3.
            weights: The module's, in order.
            rank: Of this process in the learner group.
        """
        self._zero = zero
        self._access = access
        self._stage = stage
        self._weights = weights
        self._rank = rank

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW, which DeepSpeed wraps."""
        inner: torch.optim.Optimizer = self._zero.optimizer
        return inner

    @property
    def masters(self) -> list[torch.Tensor]:
        """The fp32 tensors that AdamW updates."""
        if self._stage == 3:
            return list(self._zero.fp32_partitioned_groups_flat)
        return list(self._zero.single_partition_of_fp32_groups)

    def states(self) -> list[State]:
        """Return AdamW's state of every master, made as its first step would make it."""
        for master in self.masters:
            fill_state(self.optimizer.state[master], master)
        if self._stage < 3:
            self._zero._lazy_init_hp_params_optimizer_state()
        return [self.optimizer.state[master] for master in self.masters]

    def gradients(self) -> list[torch.Tensor]:
        """Return the tensors that hold the accumulated gradient (see the table above)."""
        zero = self._zero
        if self._stage == 1:
            return gradients_of(self._weights)
        if self._stage == 3:
            return [part for parts in self.gradient_groups() for part in parts]
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
                    device=self.masters[0].device,
                    param_group_idx=i,
                    return_tensor_list=True,
                )
        return parts

    def gradient_groups(self) -> list[list[torch.Tensor]]:
        """Return the same of stages 2 and 3, one list for every master."""
        if self._stage == 2:
            return [self.gradients()]
        groups = self._zero.averaged_gradients
        return [groups[group] for group in sorted(groups)]

    def zero_grad(self) -> None:
        """Forget the accumulated gradient."""
        zero = self._zero
        zero.zero_grad()
        if self._stage < 3:
            # zero_grad leaves the reduced sums.
            for group in list(zero.averaged_gradients):
                zero.averaged_gradients[group] = None
            for group in list(zero.all_grad_tensors):
                zero.all_grad_tensors[group] = None

    def full(self, weight: nn.Parameter, moment: str | None = None) -> torch.Tensor:
        """Return the whole master of a weight, or one of its moments; all ranks gather."""
        full: torch.Tensor
        if moment is None:
            full = self._access.safe_get_full_fp32_param(weight)
        else:
            full = self._access.safe_get_full_optimizer_state(weight, moment)
        return full.detach()

    def part(self, weight: nn.Parameter, moment: str | None) -> tuple[int, torch.Tensor]:
        """Return what is here of a master, or of one of its moments, flat and live.

        Returns:
            Index of its first value in the whole tensor, flattened; and the values, perhaps none.
        """
        facts: Any = weight  # with what ZeRO has put there
        if self._stage < 3:
            if facts._hp_mapping is None:
                return 0, self.masters[0].detach()[:0]
            start = facts._hp_mapping.lp_fragment_address.start
            return start, facts._hp_mapping.get_hp_fragment(moment).detach()
        start = facts.ds_tensor.numel() * self._rank
        if moment is None:
            padded = self._access.safe_get_local_fp32_param(weight)
        else:
            padded = self._access.safe_get_local_optimizer_state(weight, moment)
        return start, padded.detach()[: max(0, facts.ds_numel - start)]

    def refresh(self) -> None:
        """Carry changed masters over to the weights the module computes with."""
        zero = self._zero
        if self._stage < 3:
            zero.update_lp_params()
            return
        # Passes without a backward leave weights gathered, which would go on being used.
        zero._partition_all_parameters()
        for i, master in enumerate(zero.fp32_partitioned_groups_flat):
            zero.fp16_partitioned_groups_flat[i].data.copy_(master.data)
            zero._unflatten_partitioned_parameters(i)
        if persistent := zero.persistent_parameters:
            persistent[0].all_gather(persistent)
