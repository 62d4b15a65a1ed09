"""The actor shell of a learner rank: the only actor that calls others.

    driver --step, publish, score, ...--> LearnerActor --sync_client--> RolloutActor

Rank 0 drives the rollout actors' side of a weight sync itself, because sender and receivers meet in
one collective and the driver would only be in the way.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coop_rl.config import RunConfig
from coop_rl.config.sizes import may_share_memory
from coop_rl.distributed.actors import (
    PeerShell,
    RolloutActor,
    Whereabouts,
    address_for_peers,
    whereabouts,
)
from coop_rl.distributed.heartbeat import phases
from coop_rl.distributed.member import Member
from coop_rl.distributed.sync_client import RayWeightSyncClient
from coop_rl.learner.groups import RESYNC_GROUP
from coop_rl.learner.host_memory import give_back_freed_memory
from coop_rl.tracing.trace import span
from coop_rl.types import (
    AdapterGradients,
    Branch,
    BranchBatch,
    DemonstrationFit,
    Objective,
    PolicyVersion,
    SourceBatch,
    StepResult,
    TokenRow,
)
from coop_rl.weights.receipt import Receipt

if TYPE_CHECKING:  # they import torch, which the driver has no use for
    from coop_rl.weights.process_group import PeerGroup, SyncBackend
    from coop_rl.weights.publisher import SyncReport, WeightPublisher


class LearnerActor(PeerShell):
    """One rank of a learner group; the joint learner and the shadow both are of this class."""

    def __init__(
        self, config: RunConfig, branch: Branch, rank: int, backend: "SyncBackend", log: Path
    ) -> None:
        super().__init__(config, log)
        from coop_rl.learner.build import LearnerRank

        self._backend = backend
        self._rank = LearnerRank(config, branch, rank)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[dict[str, str]] | None = None
        self._publisher: WeightPublisher | None = None
        self._evaluation_publisher: WeightPublisher | None = None

    def open_world(self) -> tuple[str, int]:
        """Hold the store of this branch's torch world, on rank 0; return its host and port."""
        return self._rank.open_world(address_for_peers(self._config))

    def start(self, host: str, port: int) -> Whereabouts:
        """Join the world and build the engine."""
        self._learner = self._rank.start(host, port)
        return whereabouts()

    def adapter_shapes(self) -> dict[str, tuple[int, int]] | None:
        """Return (out features, in features) of the layers that have a part of w; None: no w."""
        adapter = self._learner.adapter
        return adapter.shapes if adapter else None

    def connect_rollouts(self, engines: list[Member[RolloutActor]]) -> None:
        """Build the publisher of this rank's weights; rank 0 drives the rollout actors.

        It takes the place of one to others, whose group is left.
        """
        if self._publisher:
            self._publisher.close()
        self._publisher = self._publisher_to(engines)

    def connect_evaluation(self, engines: list[Member[RolloutActor]]) -> None:
        """Build the publisher to the rollout actors that evaluate beside training."""
        if self._evaluation_publisher:
            self._evaluation_publisher.close()
        self._evaluation_publisher = self._publisher_to(engines)

    def _publisher_to(self, engines: list[Member[RolloutActor]]) -> "WeightPublisher":
        from coop_rl.learner.build import build_publisher

        tensor_parallel = self._config.rollout.tensor_parallel_size
        timeout_s = self._config.sync.timeout_s
        return build_publisher(
            self._config,
            self._learner,
            RayWeightSyncClient(engines, tensor_parallel, timeout_s, self._leave_memory),
            backend=self._backend,
            host=address_for_peers(self._config),
            num_engine_workers=len(engines) * tensor_parallel,
        )

    def step(
        self, step: int, batch: BranchBatch, objective: Objective
    ) -> tuple[StepResult, AdapterGradients | None]:
        """Take one step; the gradients of w are returned apart, so that they may stay here."""
        with self._turn("step"):
            return self._learner.step(step, batch, objective)

    @span("receive w")
    def receive_w(self) -> Receipt:
        """Receive w from the meta-controller; return the checksums of what is held then."""
        return self._learner.receive_w()

    def score(self, rows: list[TokenRow]) -> list[list[float]]:
        """Return log-probs of the rows' responses; all ranks are called alike."""
        with self._turn("score"):
            return self._learner.score(rows)

    def fit(self, rows: list[TokenRow]) -> DemonstrationFit:
        """Return how well the rows' responses are predicted; all ranks are called alike."""
        with self._turn("score"):
            return self._learner.fit(rows)

    def receipt(self) -> Receipt:
        """Return the checksums of what `publish` sends; all ranks are called alike."""
        assert self._publisher is not None
        return self._publisher.receipt()

    def publish(self, version: PolicyVersion) -> "SyncReport":
        """Send merged weights to the rollout actors."""
        with self._turn("publish"):
            self._learner.check_version(version)
            assert self._publisher is not None
            phases.version = str(version)
            return self._publisher.publish(version)

    def publish_evaluation(self, version: PolicyVersion) -> "SyncReport":
        """Send merged weights to the rollout actors that evaluate beside training."""
        with self._turn("publish"):
            self._learner.check_version(version)
            assert self._evaluation_publisher is not None
            phases.version = str(version)
            return self._evaluation_publisher.publish(version)

    def publish_scaffold(self, version: PolicyVersion) -> "SyncReport":
        """Send theta + s*B*A where theta alone is the policy, for second tries."""
        with self._learner.serving_scaffold():
            return self.publish(version)

    def fit_scaffold(self, shown: SourceBatch) -> None:
        """Fit w anew to demonstrations; all ranks are called alike."""
        with self._turn("fit scaffold"):
            self._learner.fit_scaffold(shown)

    def save(self, folder: str, is_beside: bool) -> dict[str, str]:
        """Write this rank's part of its branch's state; return the files' digests.

        Where `is_beside`, it is copied to host memory and written while others are called;
        `written` then has the digests.
        """
        with self._turn("save"):
            if not is_beside:
                return self._learner.save_state(Path(folder))
            finish = self._learner.snapshot_state(Path(folder))
        self._writing = self._writer.submit(finish)
        return {}

    def written(self, waits: bool) -> dict[str, str] | None:
        """Return what `save` began to write has come to: digests; None: it is not done.

        Raises:
            RunError: It could not be written.
        """
        assert self._writing is not None
        return self._writing.result() if waits or self._writing.done() else None

    def load(self, folder: str) -> None:
        """Read this branch's state."""
        with self._turn("load"):
            self._learner.load_state(Path(folder))

    def _attach(self, name: str, group: "PeerGroup") -> None:
        goes_by_gloo = group.device.type == "cpu"
        may_share = may_share_memory(self._config, self._config.placement.shadow)
        if name == RESYNC_GROUP and goes_by_gloo and may_share:
            from coop_rl.weights.wire import shared_by

            self._learner.attach_group(name, shared_by(group, self._learner.engine.device))
        else:
            self._learner.attach_group(name, group)

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Record what is done, and leave no memory behind."""
        with span(name):
            yield
            self._leave_memory()

    def _leave_memory(self) -> None:
        """Give back what is kept of freed tensors, which others on this machine could not have.

        A GPU's only where engines share it: they could not wake otherwise.
        """
        give_back_freed_memory()
        if self._config.placement.colocated:
            import torch

            torch.cuda.empty_cache()  # nothing on CPUs
