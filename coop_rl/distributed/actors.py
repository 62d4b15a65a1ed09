"""Ray actor shells: a few lines each around plain classes that are testable without Ray.

Every shell first sends its output to its own log file and hides devices that are not its own, then
imports what is heavy, so that the terminal stays readable and an import error is in the log too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle

from coop_rl.config import RunConfig
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import named_verifiers
from coop_rl.distributed.sync_client import RayWeightSyncClient
from coop_rl.distributed.team import Whereabouts
from coop_rl.errors import ActorLostError
from coop_rl.observability.logs import redirect_output
from coop_rl.rollout.engine_process import EngineProcess
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.tracing import trace
from coop_rl.tracing.trace import Span, span
from coop_rl.types import (
    AdapterGradients,
    Branch,
    BranchBatch,
    CooperativeGain,
    DemonstrationFit,
    Guidance,
    GuidanceUpdate,
    Objective,
    PolicyVersion,
    Prompt,
    RolloutGroup,
    SamplingSettings,
    ScoredGroup,
    StepResult,
    TokenRow,
)
from coop_rl.weights.receipt import Receipt

if TYPE_CHECKING:  # they import torch, which not every process has a use for
    from coop_rl.weights.publisher import SyncBackend, SyncReport

LOOPBACK = "127.0.0.1"


def own_address(config: ServingConfig) -> str:
    """Return the address peers reach this process at: loopback in local single-node mode."""
    if config.placement.address is None:
        return LOOPBACK
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def whereabouts() -> Whereabouts:
    """Say where this actor runs."""
    node_id = ray.get_runtime_context().get_node_id()
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return Whereabouts(node_id, address, os.getpid(), own_gpus())


def own_gpus() -> list[str]:
    """Return the ids of the node's devices that this actor reserves."""
    return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]


class Shell:
    """What every actor does first, and can: record what it does."""

    def __init__(self, log: Path) -> None:
        redirect_output(log)
        if not own_gpus():
            # Ray shows an actor that reserves GPUs those alone, any other one all of the node's.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def start_recording(self) -> None:
        """Record spans from now on."""
        trace.start_recording()

    def take_spans(self) -> list[Span]:
        """Record no more; return what was recorded."""
        trace.stop_recording()
        return trace.take_spans()


class RolloutActor(Shell):
    """A vLLM engine; asynchronous, so groups overlap inside it."""

    def __init__(self, config: ServingConfig, backend: str, log: Path) -> None:
        super().__init__(log)
        self._config, self._backend = config, backend

    async def start(self) -> Whereabouts:
        """Load the engine."""
        self._engine = EngineProcess(self._config, self._backend)
        await self._engine.start()
        return whereabouts()

    async def generate_group(self, prompt: Prompt, sampling: SamplingSettings) -> RolloutGroup:
        """Sample one group."""
        try:
            with span("generate", overlaps=True):
                return await self._engine.call(RolloutWorker.generate_group, prompt, sampling)
        except ActorLostError:
            # A dead engine core never comes back: end the process, so that Ray reports the loss
            # (re-raising would keep a live actor with a dead engine).
            os._exit(1)

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the transfer group."""
        await self._engine.call(VllmEngine.init_weight_transfer, init_info)

    async def start_weight_update(self) -> None:
        """Pause and open an update."""
        with span("pause for weights"):
            await self._engine.call(VllmEngine.start_weight_update)

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive weights."""
        with span("receive weights"):
            await self._engine.call(VllmEngine.update_weights, update_info)

    async def finish_weight_update(self, version: str) -> None:
        """Close the update and resume."""
        with span("finish weights"):
            await self._engine.call(VllmEngine.finish_weight_update, version)

    async def sleep(self) -> None:
        """Leave the device to the learners."""
        with span("sleep"):
            await self._engine.call(VllmEngine.sleep)

    async def receipt(self) -> Receipt:
        """Return the checksums of the weights that arrived last."""
        return await self._engine.call(VllmEngine.receipt)

    async def shutdown(self) -> None:
        """End the engine's processes."""
        await self._engine.shutdown()


class LearnerActor(Shell):
    """One rank of a learner group; both branches are this class."""

    def __init__(
        self, config: RunConfig, branch: Branch, rank: int, backend: "SyncBackend", log: Path
    ) -> None:
        super().__init__(log)
        from coop_rl.learner.build import LearnerRank
        from coop_rl.weights.process_group import GroupRegistry

        self._config, self._backend = config, backend
        self._rank = LearnerRank(config, branch, rank)
        self._groups = GroupRegistry(own_address(config), config.sync.timeout_s)

    def open_world(self) -> tuple[str, int]:
        """Rank 0: hold the store of this branch's torch world."""
        return self._rank.open_world(own_address(self._config))

    def start(self, host: str, port: int) -> Whereabouts:
        """Join the world and build the engine."""
        self._learner = self._rank.start(host, port)
        return whereabouts()

    def open_group(self, name: str) -> tuple[str, int]:
        """Hold the store of a named group."""
        return self._groups.open(name)

    def join_group(self, name: str, host: str, port: int, rank: int, size: int) -> None:
        """Join a named group; the learner uses it by its name."""
        self._learner.attach_group(name, self._groups.join(name, host, port, rank, size))

    def connect_rollouts(self, actors: list[ActorHandle[Any]]) -> None:
        """Join the weight transfer group; rank 0 drives the rollout actors."""
        tensor_parallel = self._config.rollout.tensor_parallel_size
        timeout_s = self._config.sync.timeout_s
        self._learner.connect_rollouts(
            RayWeightSyncClient(actors, tensor_parallel, timeout_s, self._leave_memory),
            backend=self._backend,
            host=own_address(self._config),
            num_engine_workers=len(actors) * tensor_parallel,
        )

    def step(
        self, step: int, batch: BranchBatch, objective: Objective
    ) -> tuple[StepResult, AdapterGradients | None]:
        """Take one step; the gradients of w are a return of their own, so they can stay remote."""
        with self._turn("step"):
            return self._learner.step(step, batch, objective)

    @span("receive w")
    def receive_guidance(self) -> Receipt:
        """Receive w from the meta-controller; returns the checksums of what is held then."""
        return self._learner.receive_guidance()

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
        return self._learner.receipt()

    def publish(self, version: PolicyVersion) -> "SyncReport":
        """Send merged weights to the rollout actors."""
        with self._turn("publish"):
            return self._learner.publish(version)

    def save(self, folder: str) -> None:
        """Write this branch's state."""
        with self._turn("save"):
            self._learner.save_state(Path(folder))

    def load(self, folder: str) -> None:
        """Read this branch's state."""
        with self._turn("load"):
            self._learner.load_state(Path(folder))

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Record what is done, and leave no memory behind."""
        with span(name):
            yield
            self._leave_memory()

    def _leave_memory(self) -> None:
        """Where engines share the device, give back what torch keeps of freed tensors.

        An engine that wakes could not have it otherwise.
        """
        if self._config.placement.colocated:
            import torch

            torch.cuda.empty_cache()  # nothing on CPUs


class MetaControllerActor(Shell):
    """The keeper of w and of other guidance."""

    def __init__(self, config: RunConfig, log: Path) -> None:
        super().__init__(log)
        from coop_rl.weights.process_group import GroupRegistry

        self._config = config
        self._groups = GroupRegistry(own_address(config), config.sync.timeout_s)

    def start(self, sources: list[str]) -> Whereabouts:
        """Build w, its optimiser and the rest."""
        from coop_rl.learner.build import build_meta_controller

        self._meta = build_meta_controller(self._config, sources)
        return whereabouts()

    def open_group(self, name: str) -> tuple[str, int]:
        """Hold the store of a named group."""
        return self._groups.open(name)

    def join_group(self, name: str, host: str, port: int, rank: int, size: int) -> None:
        """Join the guidance group as its rank 0."""
        self._meta.attach_group(name, self._groups.join(name, host, port, rank, size))

    @span("update")
    def update(
        self,
        report: StepResult,
        joint: AdapterGradients | None,
        shadow: AdapterGradients | None,
        gain: CooperativeGain | None,
    ) -> GuidanceUpdate:
        """Update guidance."""
        return self._meta.update(report, joint, shadow, gain)

    def guidance(self) -> Guidance:
        """Return what the next step follows besides w."""
        return self._meta.guidance

    @span("push w")
    def push(self) -> Receipt:
        """Broadcast w to the learners; returns its checksums."""
        return self._meta.push()

    @span("save")
    def save(self, folder: str) -> None:
        """Write w and its optimiser."""
        self._meta.save_state(Path(folder))

    def load(self, folder: str) -> None:
        """Read w and its optimiser."""
        self._meta.load_state(Path(folder))


class RewardActor(Shell):
    """The verifier's pool of processes."""

    def __init__(self, config: ServingConfig, log: Path) -> None:
        super().__init__(log)
        self._config = config

    def start(self) -> Whereabouts:
        """Start the worker processes."""
        from coop_rl.evaluation.benchmarks import verifiers_of
        from coop_rl.rewards.pool import RewardPool

        kinds = {*verifiers_of(self._config.evaluation.benchmarks), *named_verifiers(self._config)}
        self._pool = RewardPool(self._config.reward, kinds=sorted(kinds))
        return whereabouts()

    @span("score")
    def score(self, group: RolloutGroup) -> ScoredGroup:
        """Score one group."""
        from coop_rl.rewards.scoring import score_group

        return score_group(self._pool, group)

    def shutdown(self) -> None:
        """End the worker processes."""
        self._pool.close()
