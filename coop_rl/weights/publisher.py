"""Publishes a learner's weights to the rollout actors; one publisher on each joint rank.

Called by the learner for the loop's verb `publish`; rank 0 drives the rollout actors through the
client, the other ranks gather along.
"""

import time
from dataclasses import dataclass
from typing import Protocol

import torch

from coop_rl.errors import WeightSyncError
from coop_rl.types import PolicyVersion
from coop_rl.weights.buckets import DEFAULT_BUCKET_BYTES
from coop_rl.weights.gloo_sender import GlooSender, WeightSyncClient
from coop_rl.weights.process_group import SyncBackend
from coop_rl.weights.receipt import Receipt, receipt_on
from coop_rl.weights.source import MergedWeightSource


class WeightSender(Protocol):
    """A connected backend."""

    def send_weights(self) -> None:
        """Run one whole update; on failure the engines stay paused."""
        ...

    def shutdown(self) -> None:
        """Leave the transfer group."""
        ...


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One publish."""

    num_bytes: int
    """Bytes of the weights, sent once to every engine worker."""
    seconds: float
    """From the pause to the resumption of all rollout actors, the gathering included."""
    shares_memory: bool = False
    """Whether they passed through memory that sender and workers share."""
    lost: tuple[tuple[str, str], ...] = ()
    """(engine, why) of receivers that were lost meanwhile; the others then are paused, or serve the
    new weights, and all of them have to be sent to once more."""


class WeightPublisher:
    """Connects on the first publish, and anew after a failed one."""

    def __init__(
        self,
        *,
        backend: SyncBackend,
        rank: int,
        num_engine_workers: int,
        host: str,
        client: WeightSyncClient,
        source: MergedWeightSource,
        timeout_s: float,
        shared_on: torch.device | None = None,
    ) -> None:
        """Publish `source`.

        Args:
            backend: `gloo` is ours; `nccl` is vLLM's own.
            rank: Rank in the joint learner group; 0 sends.
            num_engine_workers: Worker processes of all rollout actors together.
            host: This machine's address for the rollout actors; used by rank 0.
            client: Drives the rollout actors; used by rank 0.
            source: The merged weights.
            timeout_s: Limit of a single collective (gloo; vLLM's NCCL has none of its own).
            shared_on: Where gloo may use memory that it shares with the workers, if they see it:
                this learner's device; None: all bytes go over sockets.
        """
        self._backend: SyncBackend = backend
        self._rank = rank
        self._world_size = 1 + num_engine_workers
        self._host = host
        self._client = client
        self._source = source
        self._timeout_s = timeout_s
        self._shared_on = shared_on
        self._sender: WeightSender | None = None

    def connect(self) -> None:
        """Form the transfer group with the engines' workers."""
        if self._backend == "nccl":
            from coop_rl.weights import nccl_sender  # imports vllm

            self._sender = nccl_sender.connect(
                self._client, self._source, self._rank, self._host, self._world_size
            )
            return
        sender = GlooSender(
            self._client, self._source, self._rank, DEFAULT_BUCKET_BYTES, self._shared_on
        )
        sender.connect(self._host, self._world_size, self._timeout_s)
        self._sender = sender

    def publish(self, version: PolicyVersion) -> SyncReport:
        """Send the weights; when this returns, every rollout actor samples with `version`.

        Where receivers were lost it says so: who did not die can be sent to again, by a publisher
        that knows the others only.

        Raises:
            WeightSyncError: It failed; the rollout actors stay paused until a publish succeeds.
        """
        began = time.perf_counter()
        self._client.version = str(version)
        try:
            if self._sender is None:
                self._connect_or_gather()
            assert self._sender is not None
            self._sender.send_weights()
        except WeightSyncError as error:
            self.close()
            if lost := tuple(self._client.lost.items()):
                return SyncReport(0, time.perf_counter() - began, lost=lost)
            raise WeightSyncError(f"publishing {version}: {error}") from error
        except BaseException:
            self.close()
            raise
        num_bytes = sum(spec.num_bytes for spec in self._source.metadata())
        return SyncReport(num_bytes, time.perf_counter() - began, self._shares_memory())

    def _connect_or_gather(self) -> None:
        try:
            if self._rank == 0:
                self._client.require_present()
            self.connect()
        except BaseException:
            # The other ranks of the learner gather along, and would wait for us.
            for _ in self._source:
                pass
            raise

    def receipt(self) -> Receipt:
        """Return the checksums of what `publish` would send now; every rank gathers."""
        sender = self._sender
        device = sender.device if isinstance(sender, GlooSender) else torch.device("cpu")
        return receipt_on(device, self._source)

    def _shares_memory(self) -> bool:
        return isinstance(self._sender, GlooSender) and self._sender.shares_memory

    def close(self) -> None:
        """Leave the transfer group."""
        if self._sender is not None:
            self._sender.shutdown()
            self._sender = None
