"""Publishes a learner's weights to the rollout actors; one publisher on each joint rank.

Called by the learner for the loop's verb `publish`; rank 0 drives the rollout actors through the
client, the other ranks gather along.
"""

import socket
import time
from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol

from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from coop_rl.errors import WeightSyncError
from coop_rl.types import PolicyVersion
from coop_rl.weights.buckets import DEFAULT_BUCKET_BYTES
from coop_rl.weights.gloo_engine import GlooTrainerInitInfo
from coop_rl.weights.peak_memory import measure_extra_memory
from coop_rl.weights.plugin import register

SyncBackend = Literal["gloo", "nccl"]


class VersionedSyncClient(VLLMWeightSyncClient, Protocol):
    """vLLM's four calls, to all rollout actors at once, plus the version the last one stamps.

    `init_weight_transfer_engine` adds to `rank_offset` the number of workers of the engines before.
    """

    version: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One publish."""

    num_bytes: int
    """Bytes of the weights, sent once to every engine worker."""
    seconds: float
    """From the pause to the resumption of all rollout actors, the gathering included."""
    extra_bytes: int
    """This rank's memory at the peak, above what it held before; see `measure_extra_memory`."""


class WeightPublisher:
    """Connects on the first publish, and anew after a failed one."""

    def __init__(
        self,
        *,
        backend: SyncBackend,
        rank: int,
        num_engine_workers: int,
        host: str,
        client: VersionedSyncClient,
        source: WeightSource,
        timeout_s: float,
    ) -> None:
        """Publish `source`.

        Args:
            backend: `gloo` is ours, through host memory; `nccl` is vLLM's own.
            rank: Rank in the joint learner group; 0 sends.
            num_engine_workers: Worker processes of all rollout actors together.
            host: This machine's address for the rollout actors; used by rank 0.
            client: Drives the rollout actors; used by rank 0.
            source: The merged weights.
            timeout_s: Limit of a single collective (gloo; vLLM's NCCL has none of its own).
        """
        self._backend: SyncBackend = backend
        self._rank = rank
        self._world_size = 1 + num_engine_workers
        self._host = host
        self._client = client
        self._source = source
        self._timeout_s = timeout_s
        self._engine: TrainerWeightTransferEngine[TrainerInitInfo] | None = None

    def connect(self) -> None:
        """Form the transfer group with the engines' workers."""
        register()
        self._engine = WeightTransferTrainerFactory.trainer_init(
            self._init_info(), client=self._client, source=self._source
        )

    def publish(self, version: PolicyVersion) -> SyncReport:
        """Send the weights; when this returns, every rollout actor samples with `version`.

        Raises:
            WeightSyncError: It failed; the rollout actors stay paused until a publish succeeds.
        """
        began, extra = time.perf_counter(), measure_extra_memory()
        self._client.version = str(version)
        try:
            if self._engine is None:
                self.connect()
            assert self._engine is not None
            self._engine.send_weights()
        except WeightSyncError as error:
            self.close()
            raise WeightSyncError(f"publishing {version}: {error}") from error
        except BaseException:
            self.close()
            raise
        num_bytes = sum(prod(m.shape) * m.dtype.itemsize for m in self._source.metadata())
        return SyncReport(num_bytes, time.perf_counter() - began, extra())

    def close(self) -> None:
        """Leave the transfer group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _init_info(self) -> TrainerInitInfo:
        if self._backend == "gloo":
            return GlooTrainerInitInfo(
                self._host, self._world_size, self._timeout_s, DEFAULT_BUCKET_BYTES, rank=self._rank
            )
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(
            self._host, _free_port(self._host), self._world_size, rank=self._rank
        )


def _free_port(host: str) -> int:
    """Return a port that was free a moment ago: vLLM's NCCL pair insists on binding it itself."""
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
