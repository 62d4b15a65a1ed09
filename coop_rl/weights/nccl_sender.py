"""The learner's side of weight sync over NCCL, which is vLLM's own; needs CUDA devices."""

import socket

from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from coop_rl.weights.gloo_sender import WeightSyncClient
from coop_rl.weights.source import (
    NCCL_BUFFER_BYTES,
    NUM_NCCL_BUFFERS,
    MergedWeightSource,
    VllmSource,
)


def connect(
    client: WeightSyncClient, source: MergedWeightSource, rank: int, host: str, world_size: int
) -> TrainerWeightTransferEngine[TrainerInitInfo]:
    """Form the transfer group with the engines' workers; rank 0 sends."""
    return WeightTransferTrainerFactory.trainer_init(
        init_info(rank, host, world_size), client=client, source=VllmSource(source)
    )


def init_info(rank: int, host: str, world_size: int) -> NCCLTrainerInitInfo:
    """Say who and where the sender is; `host` is this machine's address for the engines."""
    return NCCLTrainerInitInfo(
        host,
        _free_port(host),
        world_size,
        rank=rank,
        packed_buffer_size_bytes=NCCL_BUFFER_BYTES,
        packed_num_buffers=NUM_NCCL_BUFFERS,
    )


def _free_port(host: str) -> int:
    """Return a port that was free a moment ago: vLLM's NCCL pair insists on binding it itself."""
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
