"""vLLM weight-transfer backend `coop_gloo`: through host memory, for engines without own GPUs.

The shape of vLLM's NCCL pair (`vllm.distributed.weight_transfer.nccl_engine`):

    learner rank 0 (sender)          client                      engine workers
    trainer_init: open store -- init_weight_transfer_engine -->  join the group
    send_weights ------------- start_weight_update ----------->  open a reload
                 ------------- update_weights ---------------->  receive ...
                 ============= buckets over gloo =============>  ... and load
                 ------------- finish_weight_update ---------->  close the reload

The other learner ranks iterate the source in lockstep, since gathering is a collective. A failed
transfer closes the group on both sides; `trainer_init` makes a new one.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from coop_rl.errors import ActorLostError, WeightSyncError
from coop_rl.weights.buckets import (
    DEFAULT_BUCKET_BYTES,
    Bucket,
    BucketSender,
    TensorSpec,
    plan_buckets,
    receive,
)
from coop_rl.weights.plugin import BACKEND_NAME
from coop_rl.weights.process_group import PeerGroup, open_store
from coop_rl.weights.receipt import Receipt
from coop_rl.weights.reload import Reload

GROUP_NAME = "weights"
EXPLANATION_GRACE_S = 10.0
"""How long a sender that lost its group waits to hear from the receivers why."""


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """What a worker needs to join; the client adds each engine's place to `rank_offset`."""

    host: str
    port: int
    rank_offset: int
    world_size: int
    timeout_s: float
    bucket_bytes: int


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """What a worker needs to receive: the tensors, in order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]

    def buckets(self, bucket_bytes: int) -> list[Bucket]:
        """Cut the tensors as the sender does."""
        specs = [
            TensorSpec(name, torch_dtype(dtype_name), tuple(shape))
            for name, dtype_name, shape in zip(
                self.names, self.dtype_names, self.shapes, strict=True
            )
        ]
        return plan_buckets(specs, bucket_bytes)


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """The learner's side; every rank passes the same but `rank`."""

    backend: ClassVar[str] = BACKEND_NAME

    host: str
    """Address of rank 0 that the workers can reach."""
    world_size: int
    """1 + number of engine workers."""
    timeout_s: float
    bucket_bytes: int = DEFAULT_BUCKET_BYTES


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype that `str` writes as `torch.<name>`."""
    dtype = vars(torch)[name]
    if not isinstance(dtype, torch.dtype):
        raise WeightSyncError(f"torch.{name} is not a dtype")
    return dtype


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """The worker's side; vLLM builds one inside each worker process."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: PeerGroup | None = None
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
        self._group = PeerGroup.join(
            init_info.host,
            init_info.port,
            init_info.rank_offset + rank,
            init_info.world_size,
            init_info.timeout_s,
            GROUP_NAME,
        )

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
        if self._group is None:
            raise WeightSyncError("update_weights before init_weight_transfer_engine")
        try:
            buckets = update_info.buckets(self._bucket_bytes)
            arriving = receive(self._group, buckets, self._arrived, self._reload.place)
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

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The learner's side; rank 0 sends, the others only gather along."""

    init_info_cls = GlooTrainerInitInfo
    sender_class: type[BucketSender] = BucketSender
    """Replaced by tests that damage or drop buckets."""

    def __init__(
        self,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource,
        is_sender: bool,
        bucket_bytes: int,
    ) -> None:
        """Hold the parts; use `trainer_init`."""
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._source = source
        self._bucket_bytes = bucket_bytes
        self._group: PeerGroup | None = None

    @classmethod
    def trainer_init(
        cls,
        init_info: GlooTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        """Connect with the workers (rank 0) and return the engine."""
        if source is None:
            raise ValueError(f"backend {BACKEND_NAME} needs a WeightSource")
        engine = cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            bucket_bytes=init_info.bucket_bytes,
        )
        if engine.is_sender:
            engine._connect(init_info)
        return engine

    def _connect(self, info: GlooTrainerInitInfo) -> None:
        store, port = open_store(info.host, info.timeout_s)
        worker_info = GlooInitInfo(
            info.host, port, 1, info.world_size, info.timeout_s, info.bucket_bytes
        )
        # The workers' call returns only after we have joined too: hence a thread.
        with ThreadPoolExecutor(max_workers=1) as executor:
            joining = executor.submit(self.client.init_weight_transfer_engine, asdict(worker_info))
            try:
                self._group = PeerGroup.join(
                    info.host, port, 0, info.world_size, info.timeout_s, GROUP_NAME, store=store
                )
            except ActorLostError as error:
                raise explain(joining, error) from error
            joining.result()

    def send_weights(self) -> None:
        """Run one whole update; on failure the engines stay paused.

        Raises:
            WeightSyncError: The weights did not reach all workers unharmed.
        """
        metadata = self._source.metadata()
        if not self.is_sender:
            for _ in self._source:
                pass
            return
        update_info = GlooUpdateInfo(
            names=[meta.name for meta in metadata],
            dtype_names=[str(meta.dtype).removeprefix("torch.") for meta in metadata],
            shapes=[list(meta.shape) for meta in metadata],
        )
        self.client.start_weight_update()
        executor = ThreadPoolExecutor(max_workers=1)
        try:
            receiving = executor.submit(self.client.update_weights, asdict(update_info))
            self._send(update_info.buckets(self._bucket_bytes), receiving)
            receiving.result()
        finally:
            # Not joined: a receiver that is stuck answers only by its own limit.
            executor.shutdown(wait=False)
        self.client.finish_weight_update()

    def _send(self, buckets: Sequence[Bucket], receiving: "Future[None]") -> None:
        if self._group is None:
            raise WeightSyncError("the transfer group is closed; connect again")

        def check() -> None:
            if receiving.done():
                raise explain(receiving, WeightSyncError("the receivers ended early"))

        try:
            self.sender_class(self._group, buckets, check).send(self._source)
        except ActorLostError as error:
            raise explain(receiving, error) from error

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None


def explain(call: "Future[None]", own: Exception) -> WeightSyncError:
    """Return the error to raise: the receivers' word where there is one, else our own."""
    try:
        theirs = call.exception(timeout=EXPLANATION_GRACE_S)
    except FutureTimeoutError:
        theirs = None
    if isinstance(theirs, WeightSyncError):
        return theirs
    return WeightSyncError(f"{theirs or own}")
