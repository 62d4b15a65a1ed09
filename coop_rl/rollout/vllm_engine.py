"""vLLM as a generation engine: `AsyncLLM`, whose core and workers are processes of their own.

Sampled tokens come with their log-probs under the sampling distribution (temperature and top-p
applied) and the version of the weights that sampled them; both are recorded by vLLM itself.
"""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from coop_rl.config.schema import ServingConfig
from coop_rl.errors import ActorLostError, DataError, RunError, WeightSyncError
from coop_rl.rollout.arguments import (
    Decoder,
    EngineDevice,
    decoded,
    engine_arguments,
    request_arguments,
)
from coop_rl.types import PolicyVersion, Rollout, SamplingSettings
from coop_rl.weights.lifeline import announce_parent
from coop_rl.weights.plugin import BACKEND_NAME, ENTRY_POINT_NAME, is_installed
from coop_rl.weights.receipt import ABANDON_METHOD, RECEIPT_METHOD, Receipt

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")
DEATH_CHECK_S = 0.5
"""How often who waits for vLLM's core looks whether it is there."""
SHUTDOWN_LIMIT_S = 3.0
"""How long vLLM's processes get to end by themselves before they are killed; on a busy machine they
need longer, only to collect garbage."""
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # A process that has used a device must not be forked.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # By default every CPU engine of a machine binds its threads to the same cores; unbound, it has
    # OMP_NUM_THREADS of them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Threads that wait actively starve each other where other roles use the same cores: two threads
    # on two busy cores made a quarter of the tokens or less.
    "OMP_WAIT_POLICY": "passive",
    # malloc asks for huge pages: a weight sync packs every weight into new memory, whose pages cost
    # more to touch for the first time than the packing does.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Defaults for vLLM's processes; what the user has set stays."""


def engine_environment(config: ServingConfig) -> dict[str, str]:
    """Return what vLLM's processes, and the libraries in them, read when they start."""
    defaults = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    # As many threads as the actor has CPUs; Ray has set it before it knew how many.
    return defaults | {"OMP_NUM_THREADS": str(max(1, int(config.placement.rollout.cpus)))}


class VllmEngine:
    """Implements GenerationEngine."""

    def __init__(self, config: ServingConfig, backend: str, *, may_fork: bool = False) -> None:
        """Prepare an engine for the model and `rollout` section of `config`.

        Args:
            config: Sections `model`, `rollout` and `placement` count.
            backend: How weights arrive: `gloo` or `nccl`.
            may_fork: This process may be forked: it has no threads that hold locks, and has used
                none of torch's. On CPUs the core then starts without importing vLLM again.
        """
        self._may_fork = may_fork
        self._config = config
        self._backend = BACKEND_NAME if backend == "gloo" else backend
        self._request_ids = itertools.count()
        self._engine: AsyncLLM | None = None
        self._is_asleep, self._waking = False, asyncio.Lock()
        self._is_hollow = False
        """Whether its weights are those of no version, since it slept without any."""

    async def start(self) -> None:
        """Start vLLM's processes and load the model; about 20 s, mostly imports."""
        os.environ.update(engine_environment(self._config))
        if self._backend == BACKEND_NAME and not is_installed():
            raise RunError(
                f"vLLM's entry point {ENTRY_POINT_NAME} is not installed; install this package "
                "(pip install --no-deps -e .) instead of only putting it on PYTHONPATH"
            )
        announce_parent()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        vllm_config = AsyncEngineArgs(**self.arguments()).create_engine_config()
        if self._may_fork and self._is_one_core():
            # Making the config sets it to spawn on CPUs: it knows of no process that may be forked.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        self._engine = AsyncLLM.from_vllm_config(vllm_config, disable_log_stats=True)
        # A folder holds what a fresh run starts from; a resumed run publishes before it samples.
        await self._ask(self._engine.update_weight_version(str(PolicyVersion(0, 0))))

    def _is_one_core(self) -> bool:
        """Whether the model runs in the engine core, which then is the only process beside us."""
        from vllm.platforms import current_platform

        return current_platform.is_cpu() and self._config.rollout.tensor_parallel_size == 1

    def arguments(self) -> dict[str, Any]:
        """Return what vLLM is started with."""
        from vllm.config import WeightTransferConfig

        transfer = WeightTransferConfig(backend=self._backend)
        arguments = engine_arguments(self._config, self._device())
        return {**arguments, "weight_transfer_config": transfer}

    def _device(self) -> EngineDevice | None:
        from vllm.platforms import current_platform as platform

        if platform.is_cpu():
            return None
        return EngineDevice(platform.get_device_name(), platform.get_device_total_memory() / 2**30)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: SamplingSettings, seed: int
    ) -> Rollout:
        """Sample one response."""
        from vllm.inputs import tokens_input

        engine = self._started()
        room = engine.model_config.max_model_len - len(prompt_token_ids)
        if room < 1:
            raise DataError(
                f"prompts must be shorter than {engine.model_config.max_model_len} tokens, got "
                f"{len(prompt_token_ids)}; raise model.max_length or drop the prompt"
            )
        if self._is_hollow:
            raise RunError("the engine slept without weights, and nothing has updated them since")
        await self._wake(["weights", "kv_cache"])
        request = engine.generate(
            tokens_input(list(prompt_token_ids)),
            sampling_params(sampling, min(sampling.max_tokens, room), seed),
            request_id=str(next(self._request_ids)),
        )
        with _dead_engine_is_lost_actor():
            async for output in request:
                if output.finished:
                    return _to_rollout(output.outputs[0], engine.get_tokenizer(), prompt_token_ids)
        raise RunError("vLLM ended a request without an output")

    async def pause(self) -> None:
        """Freeze requests where they are; drop the key-value cache, which goes with the weights."""
        await self._ask(self._started().pause_generation(mode="keep", clear_cache=True))

    async def resume(self) -> None:
        """Go on with frozen requests, computing their keys and values anew."""
        await self._ask(self._started().resume_generation())

    async def sleep(self, *, keeps_weights: bool = False) -> None:
        """Drop the cache, and weights or move them to the host; on CPUs only stop scheduling."""
        if not self._is_asleep:
            await self._ask(self._started().sleep(level=1 if keeps_weights else 2, mode="keep"))
            self._is_asleep, self._is_hollow = True, not keeps_weights

    async def _wake(self, tags: list[str]) -> None:
        """Take back memory; awake once the cache is there."""
        async with self._waking:
            if self._is_asleep:
                self._is_asleep = not await self._ask(self._started().wake_up(tags))

    async def init_weight_transfer(self, init_info: Mapping[str, Any]) -> None:
        """Join the transfer group."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        with _failure_is_sync_error("joining"):
            request = WeightTransferInitRequest(dict(init_info))
            if self._backend != BACKEND_NAME:
                # Untried: vLLM's NCCL engine joins a new group without leaving the old one.
                await self._ask(self._started().collective_rpc(ABANDON_METHOD))
                leave = "shutdown_weight_transfer_engine"
                await self._ask(self._started().collective_rpc(leave))
            await self._ask(self._started().init_weight_transfer_engine(request))

    async def start_weight_update(self) -> None:
        """Pause and open an update; a sleeping engine gets its cache back when it is over."""
        await self._wake(["weights"])
        await self.pause()
        with _failure_is_sync_error("starting"):
            await self._ask(self._started().collective_rpc(ABANDON_METHOD))
            await self._ask(self._started().start_weight_update())

    async def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Receive weights; after a failure the engine stays paused, see GenerationEngine."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        with _failure_is_sync_error("receiving"):
            request = WeightTransferUpdateRequest(dict(update_info))
            await self._ask(self._started().update_weights(request))

    async def finish_weight_update(self, version: str) -> None:
        """Close the update, stamp `version` on tokens sampled from now on, and resume."""
        with _failure_is_sync_error("finishing"):
            await self._ask(self._started().finish_weight_update(weight_version=version))
        self._is_hollow = False
        await self._wake(["kv_cache"])
        await self.resume()

    async def receipt(self) -> Receipt:
        """Return the checksums of what the last weight update brought; all workers got the same."""
        receipts: list[Receipt] = await self._ask(self._started().collective_rpc(RECEIPT_METHOD))
        return receipts[0]

    async def shutdown(self) -> None:
        """End the engine's processes; nothing may be called afterwards."""
        if self._engine is not None:
            # A core alone has nothing to end in order.
            self._engine.shutdown(timeout=0.0 if self._is_one_core() else SHUTDOWN_LIMIT_S)
            self._engine = None

    async def _ask(self, call: Awaitable[T]) -> T:
        """Wait for an answer; where vLLM's core dies meanwhile, it leaves calls without one.

        Raises:
            ActorLostError: The engine has died.
        """
        asked = asyncio.ensure_future(call)
        try:
            with _dead_engine_is_lost_actor():
                while not (await asyncio.wait([asked], timeout=DEATH_CHECK_S))[0]:
                    if self._started().errored:
                        raise self._started().dead_error
                return await asked
        finally:
            asked.cancel()

    def _started(self) -> "AsyncLLM":
        if self._engine is None:
            raise ActorLostError("the vLLM engine is not running")
        return self._engine


def sampling_params(sampling: SamplingSettings, max_tokens: int, seed: int) -> "SamplingParams":
    """Return vLLM's settings of one response."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        **request_arguments(sampling, max_tokens, seed), output_kind=RequestOutputKind.FINAL_ONLY
    )


def _to_rollout(
    completion: "CompletionOutput", tokenizer: Decoder, prompt_ids: Sequence[int]
) -> Rollout:
    if completion.finish_reason not in ("stop", "length"):
        raise RunError(f"vLLM ended a request with {completion.finish_reason!r}")
    spans, flat = completion.weight_versions, completion.logprobs
    if not spans or flat is None:
        raise RunError("vLLM returned a response without weight versions or log-probs")
    token_ids = tuple(completion.token_ids)
    is_truncated = completion.finish_reason == "length"
    versions = [(PolicyVersion.parse(span.version), span.end - span.start) for span in spans]
    return Rollout(
        token_ids=token_ids,
        # At a position stand the sampled token's own first, and others only if they were asked for.
        behaviour_log_probs=tuple(flat.logprobs[start] for start in flat.start_indices),
        text=decoded(tokenizer, prompt_ids, token_ids if is_truncated else token_ids[:-1]),
        is_truncated=is_truncated,
        version=min(version for version, _ in versions),
        version_spans=tuple(versions) if len(versions) > 1 else (),
    )


@contextmanager
def _dead_engine_is_lost_actor() -> Iterator[None]:
    """Tell a dead engine, which never comes back, from a failed call."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ActorLostError(f"the vLLM engine died: {error}") from error


@contextmanager
def _failure_is_sync_error(phase: str) -> Iterator[None]:
    """Name the phase in which a worker failed; vLLM relays its exception as text."""
    try:
        yield
    except ActorLostError:
        raise
    except Exception as error:
        raise WeightSyncError(f"{phase} weights: {error}") from error
