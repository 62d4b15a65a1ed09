"""The receiving end of weight sync, inside vLLM's worker; see `gloo_sender` for the whole."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from coop_rl.errors import WeightSyncError
from coop_rl.weights.buckets import DEFAULT_BUCKET_BYTES, receive
from coop_rl.weights.gloo_sender import GROUP_NAME, JoinInfo, UpdateInfo
from coop_rl.weights.process_group import PeerGroup
from coop_rl.weights.receipt import Receipt
from coop_rl.weights.reload import Reload
from coop_rl.weights.wire import Offer, SharedMemory, Wire, agreed


@dataclass
class GlooInitInfo(JoinInfo, WeightTransferInitInfo):
    """As vLLM wants it."""


@dataclass
class GlooUpdateInfo(UpdateInfo, WeightTransferUpdateInfo):
    """As vLLM wants it."""


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The worker's side; vLLM builds one inside each worker process."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _wire: Wire | None = None
    _bucket_bytes = DEFAULT_BUCKET_BYTES
    receipt: Receipt
    """Of the last completed update; read by `ReceiptExtension`."""
    _arrived: Receipt
    _reload: Reload

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Join the sender's group, leaving an older one."""
        self.shutdown()
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._bucket_bytes = init_info.bucket_bytes
        group = PeerGroup.join(
            init_info.host,
            init_info.port,
            init_info.rank_offset + rank,
            init_info.world_size,
            init_info.timeout_s,
            GROUP_NAME,
        )
        offer = Offer(**init_info.offer) if init_info.offer else None
        memory = SharedMemory.open(offer, self.device) if offer else None
        self._wire = agreed(group, memory, is_offered=offer is not None)

    def start_weight_update(self) -> None:
        """Open a reload of the model."""
        self._arrived = {}
        self._reload = Reload(self.model, self.model_config, self.device)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load; unlike the base class also where there is no accelerator."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receive all buckets and hand their tensors to the model's loader."""
        if self._wire is None:
            raise WeightSyncError("update_weights before init_weight_transfer_engine")
        try:
            buckets = update_info.buckets(self._wire.bucket_bytes(self._bucket_bytes))
            arriving = receive(self._wire, buckets, self._arrived, self._reload.memory_for)
            # Closed at once when loading fails: that tells the sender.
            with closing(arriving):
                self._reload.load(arriving)
        except BaseException:
            self._reload.abandon()
            raise

    def finish_weight_update(self) -> None:
        """Close the reload."""
        self._reload.finish()
        self.receipt = self._arrived

    def abandon(self) -> None:
        """Give up an open update; layers that are not whole get their old weights back."""
        self._reload.abandon()

    def shutdown(self) -> None:
        """Leave the group."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
