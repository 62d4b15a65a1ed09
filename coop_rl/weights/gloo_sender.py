"""Weight sync `coop_gloo`: over sockets or shared memory, for engines without own GPUs.

    learner rank 0 (sender)          client                      engine workers (`gloo_engine`)
    connect: open store ------- init_weight_transfer_engine -->  join the group
    send_weights -------------- start_weight_update ---------->  open a reload
                 -------------- update_weights --------------->  receive ...
                 ======== buckets, on a `Wire` ===============>  ... and load
                 -------------- finish_weight_update --------->  close the reload

The client's calls are those of vLLM's NCCL pair. The other learner ranks iterate the source in
lockstep, since gathering is a collective. A failed transfer closes the group on both sides;
`connect` makes a new one. Nothing here imports vLLM, which takes longer than a learner's own start.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from coop_rl.errors import ActorLostError, WeightSyncError
from coop_rl.weights.buckets import Bucket, BucketSender, TensorSpec, plan_buckets
from coop_rl.weights.process_group import PeerGroup, open_store
from coop_rl.weights.source import MergedWeightSource
from coop_rl.weights.wire import Wire, agreed, as_dict, offered

GROUP_NAME = "weights"
EXPLANATION_GRACE_S = 10.0
"""How long a sender that lost its group waits to hear from the receivers why."""


class WeightSyncClient(Protocol):
    """Calls every rollout actor at once.

    `init_weight_transfer_engine` adds to `rank_offset` the number of workers of the engines before.
    """

    version: str
    """What `finish_weight_update` stamps."""
    lost: dict[str, str]
    """Why engines are lost, by name; each was, or took part in, a call that failed."""

    def require_present(self) -> None:
        """Ask everybody for an answer."""
        ...

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every worker join the transfer group."""
        ...

    def start_weight_update(self) -> None:
        """Pause the engines and open an update."""
        ...

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive; returns when all weights have arrived."""
        ...

    def finish_weight_update(self) -> None:
        """Close the update and resume."""
        ...


@dataclass
class JoinInfo:
    """What a worker needs to join; the client adds each engine's place to `rank_offset`."""

    host: str
    port: int
    rank_offset: int
    world_size: int
    """1 + number of engine workers."""
    timeout_s: float
    bucket_bytes: int
    offer: dict[str, Any] | None = None
    """Of memory that the sender and all workers may see."""


@dataclass
class UpdateInfo:
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


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype that `str` writes as `torch.<name>`."""
    dtype = vars(torch)[name]
    if not isinstance(dtype, torch.dtype):
        raise WeightSyncError(f"torch.{name} is not a dtype")
    return dtype


class GlooSender:
    """The learner's side; rank 0 sends, the others only gather along."""

    sender_class: type[BucketSender] = BucketSender
    """Replaced by tests that damage or drop buckets."""

    def __init__(
        self,
        client: WeightSyncClient,
        source: MergedWeightSource,
        rank: int,
        bucket_bytes: int,
        shared_on: torch.device | None = None,
    ) -> None:
        """Send `source`; rank 0 needs `connect` before.

        Args:
            client: Drives the workers.
            source: What is sent.
            rank: In the learner group.
            bucket_bytes: At most in one message over the group.
            shared_on: Where to offer memory that workers may see; None: nowhere.
        """
        self._client = client
        self._source = source
        self._is_sender = rank == 0
        self._bucket_bytes = bucket_bytes
        self._shared_on = shared_on
        self._wire: Wire | None = None

    def connect(self, host: str, world_size: int, timeout_s: float) -> None:
        """Form the group with the workers; nothing on other ranks than 0.

        Args:
            host: Address of rank 0 that the workers can reach.
            world_size: 1 + number of engine workers.
            timeout_s: Limit of the joining and of each collective.
        """
        if not self._is_sender:
            return
        store, port = open_store(host, timeout_s)
        memory = None if self._shared_on is None else offered(self._shared_on)
        offer = as_dict(memory.offer) if memory else None
        info = JoinInfo(host, port, 1, world_size, timeout_s, self._bucket_bytes, offer)
        # The workers' call returns only after we have joined too: hence a thread.
        with ThreadPoolExecutor(max_workers=1) as executor:
            joining = executor.submit(self._client.init_weight_transfer_engine, asdict(info))
            try:
                group = PeerGroup.join(
                    host, port, 0, world_size, timeout_s, GROUP_NAME, store=store
                )
                self._wire = agreed(group, memory, is_offered=memory is not None)
            except ActorLostError as error:
                raise explain(joining, error) from error
            joining.result()

    @property
    def device(self) -> torch.device:
        """Where what is sent lies when its checksum is taken."""
        return self._wire.device if self._wire else torch.device("cpu")

    @property
    def shares_memory(self) -> bool:
        """Whether it goes through memory that all workers see."""
        return self._wire is not None and self._wire.shares_memory

    def send_weights(self) -> None:
        """Run one whole update; on failure the engines stay paused.

        Raises:
            WeightSyncError: The weights did not reach all workers unharmed.
        """
        metadata = self._source.metadata()
        if not self._is_sender:
            for _ in self._source:
                pass
            return
        update_info = UpdateInfo(
            names=[meta.name for meta in metadata],
            dtype_names=[str(meta.dtype).removeprefix("torch.") for meta in metadata],
            shapes=[list(meta.shape) for meta in metadata],
        )
        try:
            self._client.start_weight_update()
        except BaseException:
            # The other ranks of the learner gather along, and would wait for us.
            for _ in self._source:
                pass
            raise
        executor = ThreadPoolExecutor(max_workers=1)
        try:
            receiving = executor.submit(self._client.update_weights, asdict(update_info))
            self._send(update_info, receiving)
            receiving.result()
        finally:
            # Not joined: a receiver that is stuck answers only by its own limit.
            executor.shutdown(wait=False)
        self._client.finish_weight_update()

    def _send(self, update_info: UpdateInfo, receiving: "Future[None]") -> None:
        if self._wire is None:
            raise WeightSyncError("the transfer group is closed; connect again")

        def check() -> None:
            if receiving.done():
                raise explain(receiving, WeightSyncError("the receivers ended early"))

        try:
            buckets = update_info.buckets(self._wire.bucket_bytes(self._bucket_bytes))
            self.sender_class(self._wire, buckets, check).send(self._source)
        except ActorLostError as error:
            raise explain(receiving, error) from error

    def shutdown(self) -> None:
        """Leave the group."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def explain(call: "Future[None]", own: Exception) -> WeightSyncError:
    """Return the error to raise: the receivers' word where there is one, else our own."""
    try:
        theirs = call.exception(timeout=EXPLANATION_GRACE_S)
    except FutureTimeoutError:
        theirs = None
    if isinstance(theirs, WeightSyncError):
        return theirs
    return WeightSyncError(f"{theirs or own}")
