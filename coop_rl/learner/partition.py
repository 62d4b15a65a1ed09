"""ZeRO-3's start: a model is split over the ranks weight by weight, as it is read.

    rank 0 reads a weight --broadcast--> every rank keeps its part --next weight-->

No rank holds more than its parts and a few whole weights (what is read, cut, and not let go of yet
by the threads that send), and one rank alone reads. Loaded whole, a model of 32 B would take 65 GB
of every device before DeepSpeed splits it.
"""

import torch
import torch.distributed as dist
from torch import nn

from coop_rl.learner.deepspeed_config import deepspeed_config
from coop_rl.learner.deepspeed_engine import import_deepspeed
from coop_rl.learner.engine import EngineSettings
from coop_rl.models.checkpoint import CheckpointWeights, places_of


def fill_partitioned(
    model: nn.Module, weights: CheckpointWeights, dtype: torch.dtype, settings: EngineSettings
) -> None:
    """Give each rank its parts of `weights`; all ranks call it.

    Args:
        model: The policy, built without weights; its head shares one.
        weights: Which all its weights are among.
        dtype: The compute type.
        settings: Of the engine that is built around it afterwards.
    """
    deepspeed = import_deepspeed()
    places = places_of(model)
    config = deepspeed_config(settings, sum(weight.numel() for weight in places))
    # Not entered as a context: only what converts one weight is used.
    init = deepspeed.zero.Init(config_dict_or_path=config, dtype=dtype)
    # As after a whole load: the plain product keeps a view of the gathered weight for the backward
    # pass, and so all of them where nothing is recomputed.
    init._enable_mem_efficient_linear()
    for empty, owners in places.items():
        if dist.get_rank() == 0:
            value = weights.read(owners).to(init.local_device, dtype)
        else:
            value = torch.empty(empty.shape, dtype=dtype, device=init.local_device)
        weight = nn.Parameter(value, empty.requires_grad)
        del value
        init._convert_to_zero_parameters([weight])
        for module, attribute, _ in owners:
            module._parameters[attribute] = weight
