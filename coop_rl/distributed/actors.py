"""Ray actor shells: a few lines each around plain classes that are testable without Ray.

    RolloutActor          rollout.engine_process                  prompts in, sampled groups out
    RewardActor           rewards.pool                            groups in, scored groups out
    LearnerActor          learner.learner                         batches in (`learner_actor`)
    MetaControllerActor   learner.meta_controller                 gradients of w in, w out

`distributed.build` creates them, `Member.call` names their methods. The driver imports this module
for the methods' types, so heavy imports are inside methods: every shell first sends its output to
its own log file and hides devices that it did not reserve, then imports what is heavy, so that the
terminal stays readable and an import error is in the log too.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from coop_rl.config import RunConfig
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import named_verifiers
from coop_rl.distributed.heartbeat import (
    Beat,
    children_of,
    noted,
    phases,
    show_stacks_on_signal,
)
from coop_rl.errors import ActorLostError
from coop_rl.observability.logs import redirect_output
from coop_rl.rollout.engine_process import EngineProcess
from coop_rl.rollout.vllm_engine import VllmEngine
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.tracing import trace
from coop_rl.tracing.trace import Span, span
from coop_rl.types import (
    AdapterGradients,
    CooperativeGain,
    Guidance,
    GuidanceUpdate,
    Prompt,
    RolloutGroup,
    SamplingSettings,
    ScoredGroup,
    StepResult,
)
from coop_rl.weights.lifeline import gone
from coop_rl.weights.receipt import Receipt

if TYPE_CHECKING:
    from coop_rl.weights.process_group import PeerGroup, SyncBackend

LOOPBACK = "127.0.0.1"
GONE_LIMIT_S = 30.0
"""Longest wait for the process of a lost actor to be gone."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an actor runs; `actors.json` of the run directory holds everybody's."""

    node_id: str
    """Ray's, as `ray list nodes` shows it."""
    address: str
    """The node's IP address."""
    pid: int
    """The process id on that node."""
    gpus: list[str]
    """Ids of the node's devices that the actor reserves."""


def whereabouts() -> Whereabouts:
    """Say where this actor runs."""
    node_id = ray.get_runtime_context().get_node_id()
    return Whereabouts(node_id, _node_address(), os.getpid(), reserved_gpus())


def address_for_peers(config: ServingConfig) -> str:
    """Return the address peers reach this process at: loopback in local single-node mode."""
    return LOOPBACK if config.placement.address is None else _node_address()


def _node_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def reserved_gpus() -> list[str]:
    """Return the ids of the node's devices that this actor reserves."""
    return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]


class Shell:
    """The base of every actor: its log, its devices, its beat, and recording of its spans."""

    def __init_subclass__(cls) -> None:
        """Let beats tell which public method is under way."""
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("_"):
                setattr(cls, name, noted(method))

    def __init__(self, log: Path) -> None:
        redirect_output(log)
        show_stacks_on_signal()
        if not reserved_gpus():
            # Ray shows an actor that reserves GPUs those alone, any other one all of the node's.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def beat(self) -> Beat:
        """Say how this actor is, on a thread of its own (`heartbeat.BEAT_GROUP`)."""
        node_id = ray.get_runtime_context().get_node_id()
        return phases.beat(node_id, children_of(os.getpid()))

    def start_recording(self) -> None:
        """Record spans from now on."""
        trace.start_recording()

    def take_spans(self) -> list[Span]:
        """Record no more; return what was recorded."""
        trace.stop_recording()
        return trace.take_spans()


class PeerShell(Shell):
    """The base of actors that are linked by broadcast groups: learners and the meta-controller."""

    def __init__(self, config: RunConfig, log: Path) -> None:
        super().__init__(log)
        from coop_rl.weights.process_group import GroupRegistry

        self._config = config
        self._groups = GroupRegistry(address_for_peers(config), config.sync.timeout_s)

    def open_group(self, name: str) -> tuple[str, int]:
        """Hold the store of a group; return the host and port at which its members join."""
        return self._groups.open(name)

    def join_group(
        self, name: str, host: str, port: int, rank: int, size: int, backend: "SyncBackend"
    ) -> None:
        """Join a group as one of `size` ranks; what the shell wraps uses it by its name."""
        self._attach(name, self._groups.join(name, host, port, rank, size, backend=backend))

    def _attach(self, name: str, group: "PeerGroup") -> None:
        """Hand a joined group to what the shell wraps."""
        raise NotImplementedError


class RolloutActor(Shell):
    """A vLLM engine; asynchronous, so groups overlap inside it."""

    def __init__(self, config: ServingConfig, backend: str, log: Path) -> None:
        super().__init__(log)
        self._config, self._backend = config, backend

    async def start(self, lost: Whereabouts | None = None) -> Whereabouts:
        """Load the engine, once nothing is left of a `lost` one in whose place this one is."""
        if lost is not None and lost.node_id == whereabouts().node_id:
            await gone(lost.pid, GONE_LIMIT_S)
        self._engine = EngineProcess(self._config, self._backend)
        await self._engine.start()
        return whereabouts()

    async def generate(self, prompt: Prompt, sampling: SamplingSettings) -> RolloutGroup:
        """Sample one group."""
        with self._or_end(), span("generate", overlaps=True):
            return await self._engine.call(RolloutWorker.generate_group, prompt, sampling)

    async def join_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Join the transfer group, in which learner rank 0 sends weights."""
        with self._or_end():
            await self._engine.call(VllmEngine.init_weight_transfer, init_info)

    async def start_weight_update(self) -> None:
        """Pause generation and open an update of the weights."""
        with self._or_end(), span("pause for weights"):
            await self._engine.call(VllmEngine.start_weight_update)

    async def receive_weights(self, update_info: dict[str, Any]) -> None:
        """Receive what learner rank 0 sends."""
        with self._or_end(), span("receive weights"):
            await self._engine.call(VllmEngine.update_weights, update_info)

    async def finish_weight_update(self, version: str) -> None:
        """Close the update, stamp the version on what is sampled from now on, and resume."""
        with self._or_end(), span("finish weights"):
            await self._engine.call(VllmEngine.finish_weight_update, version)
        phases.version = version

    async def sleep(self) -> None:
        """Leave the device to the learners."""
        with self._or_end(), span("sleep"):
            await self._engine.call(VllmEngine.sleep)

    async def receipt(self) -> Receipt:
        """Return the checksums of the weights that arrived last."""
        with self._or_end():
            return await self._engine.call(VllmEngine.receipt)

    async def shutdown(self) -> None:
        """End the engine's processes."""
        await self._engine.shutdown()

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        """End this process where the engine is dead, which never comes back.

        So Ray reports the loss; an error would leave a live actor with a dead engine.
        """
        try:
            yield
        except ActorLostError:
            os._exit(1)


class MetaControllerActor(PeerShell):
    """The keeper of w, its optimiser, and what else the learners are guided by."""

    def start(self, sources: list[str], shapes: dict[str, tuple[int, int]] | None) -> Whereabouts:
        """Build w, of the layers' `shapes`, and its optimiser.

        `sources` names where demonstrations come from.
        """
        from coop_rl.learner.meta_controller import MetaController, build_adapter

        adapter = build_adapter(self._config, shapes, "cpu") if shapes else None
        self._meta = MetaController(self._config, adapter, sources)
        return whereabouts()

    @span("update")
    def update(
        self,
        report: StepResult,
        joint: AdapterGradients | None,
        shadow: AdapterGradients | None,
        gain: CooperativeGain | None,
    ) -> GuidanceUpdate:
        """Move w, and what else guides, by what a step reported."""
        return self._meta.update(report, joint, shadow, gain)

    def guidance(self) -> Guidance:
        """Return what the next step follows besides w."""
        return self._meta.guidance

    @span("push w")
    def push_w(self) -> Receipt:
        """Broadcast w to the learners; return its checksums."""
        return self._meta.push_w()

    @span("save")
    def save(self, folder: str) -> None:
        """Write w and its optimiser."""
        self._meta.save_state(Path(folder))

    def load(self, folder: str) -> None:
        """Read w and its optimiser."""
        self._meta.load_state(Path(folder))

    def _attach(self, name: str, group: "PeerGroup") -> None:
        self._meta.attach_group(name, group)


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
