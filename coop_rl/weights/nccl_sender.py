"""The learner's side of weight sync over NCCL, which is vLLM's own; needs CUDA devices."""

import socket
from collections.abc import Iterator

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from coop_rl.weights.gloo_sender import WeightSyncClient
from coop_rl.weights.source import MergedWeightSource


class VllmSource(WeightSource):
    """The learner's weights in vLLM's terms."""

    def __init__(self, source: MergedWeightSource) -> None:
        """Hand on what `source` yields."""
        self._source = source

    def metadata(self) -> list[ParamMeta]:
        """Declare what iteration yields."""
        return [ParamMeta(spec.name, spec.dtype, spec.shape) for spec in self._source.metadata()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self._source)


def connect(
    client: WeightSyncClient, source: MergedWeightSource, rank: int, host: str, world_size: int
) -> TrainerWeightTransferEngine[TrainerInitInfo]:
    """Form the transfer group with the engines' workers; rank 0 sends."""
    return WeightTransferTrainerFactory.trainer_init(
        init_info(rank, host, world_size), client=client, source=VllmSource(source)
    )


def init_info(rank: int, host: str, world_size: int) -> NCCLTrainerInitInfo:
    """Say who and where the sender is; `host` is this machine's address for the engines."""
    return NCCLTrainerInitInfo(host, _free_port(host), world_size, rank=rank)


def _free_port(host: str) -> int:
    """Return a port that was free a moment ago: vLLM's NCCL pair insists on binding it itself."""
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
