"""From the config to a learner rank; called by its actor shell."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch._C._distributed_c10d import Store
from transformers import PreTrainedModel

from coop_rl.algorithm.packing import layout_of
from coop_rl.config import RunConfig
from coop_rl.config.sizes import attention, has_adapter, learner_timeout_s, may_share_memory
from coop_rl.data.model_folder import read_model_facts
from coop_rl.learner.engine import EngineSettings, TrainingEngine
from coop_rl.learner.learner import Learner
from coop_rl.learner.meta_controller import build_adapter
from coop_rl.learner.packing_check import check_packing
from coop_rl.learner.settings import LearnerSettings
from coop_rl.learner.world import init_world
from coop_rl.models import (
    DTYPES,
    Adapter,
    PolicyModel,
    adapter_shapes,
    load_causal_lm,
    varlen,
)
from coop_rl.models.checkpoint import CheckpointWeights
from coop_rl.models.head import chunk_for
from coop_rl.models.loading import unloaded_causal_lm
from coop_rl.types import Branch
from coop_rl.weights.gloo_sender import WeightSyncClient
from coop_rl.weights.process_group import SyncBackend, open_store
from coop_rl.weights.publisher import WeightPublisher
from coop_rl.weights.source import MergedWeightSource

GIB = 2**30
log = logging.getLogger(__name__)


class GatheredTheta:
    """The learner's full parameters as `weights.source` reads them."""

    def __init__(self, engine: TrainingEngine) -> None:
        """Read from `engine`."""
        self._engine = engine

    def metadata(self) -> Sequence[tuple[str, tuple[int, ...]]]:
        """Return (checkpoint name, full shape) of each weight."""
        return self._engine.metadata()

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the full weights; every rank iterates."""
        return self._engine.full_parameters()


def build_publisher(
    config: RunConfig,
    learner: Learner,
    client: WeightSyncClient,
    *,
    backend: SyncBackend,
    host: str,
    num_engine_workers: int,
) -> WeightPublisher:
    """Build what sends merged theta + s*B*A of `learner`; it connects at the first publish.

    Args:
        config: The run.
        learner: Whose theta and w are merged and sent.
        client: Drives the rollout actors; used by rank 0.
        backend: How the weights travel.
        host: This machine's address for the rollout actors.
        num_engine_workers: Worker processes of all rollout actors together.
    """
    theta, dtype = GatheredTheta(learner.engine), DTYPES[config.rollout.dtype]
    is_offered = may_share_memory(config, config.placement.rollout)
    return WeightPublisher(
        backend=backend,
        rank=learner.engine.rank,
        num_engine_workers=num_engine_workers,
        host=host,
        client=client,
        source=MergedWeightSource(theta, learner.adapter, dtype),
        timeout_s=config.sync.timeout_s,
        shared_on=learner.engine.device if is_offered else None,
    )


class LearnerRank:
    """One rank before its world exists: first the store, then the rest."""

    def __init__(self, config: RunConfig, branch: Branch, rank: int) -> None:
        """Remember what to build."""
        self._config = config
        self._branch: Branch = branch
        self._rank = rank
        self._store: Store | None = None
        torch.set_num_threads(config.learner.num_threads)

    def open_world(self, host: str) -> tuple[str, int]:
        """Rank 0: hold the store of this branch's world on `host`; return where it listens."""
        self._store, port = open_store(host, self._config.placement.startup_timeout_s)
        return host, port

    def start(self, host: str, port: int) -> Learner:
        """Join the world and build the learner; all ranks at the same time.

        The model is loaded before the world is joined, but at ZeRO stage 3, which splits it as it
        is read. Either way the slowest rank is waited for, so until the engine is built collectives
        have the start-up's limit.
        """
        from coop_rl.learner.deepspeed_engine import DeepSpeedEngine

        config, settings = self._config, EngineSettings.from_config(self._config)
        weights = None
        if settings.zero_stage == 3:
            weights = CheckpointWeights.open(config.model.path)
        policy, adapter = build_policy(config, weights)
        reference = build_reference(config) if config.method.rl_settings.kl.weight > 0 else None
        name = f"learner {self._branch}"
        init_world(
            host,
            port,
            self._rank,
            config.learner.num_ranks,
            config.placement.startup_timeout_s,
            store=self._store,
            name=name,
        )
        dtype = DTYPES[config.model.dtype]
        if weights and next(policy.parameters()).is_meta:
            from coop_rl.learner.partition import fill_partitioned

            fill_partitioned(policy, weights, dtype, settings)
        engine = DeepSpeedEngine(policy, settings, learner_timeout_s(config))
        longest = read_model_facts(config.model).max_length
        check_packing(engine, layout_of(config), dtype, longest)
        return Learner(
            LearnerSettings.from_config(config), self._branch, engine, adapter, reference
        )


def build_policy(
    config: RunConfig, weights: CheckpointWeights | None = None
) -> tuple[PolicyModel, Adapter | None]:
    """Build the policy and, for methods that have one, attach the adapter.

    Args:
        config: The run.
        weights: The checkpoint, if its weights are to be filled in later; they are loaded at once
            all the same where the checkpoint has other names for them than the model.
    """
    causal_lm = _causal_lm(config, weights)
    if attention(config) == "varlen":
        settings, is_on_gpu = causal_lm.config.to_dict(), torch.cuda.is_available()
        varlen.check_varlen(settings, causal_lm.dtype, is_on_gpu=is_on_gpu)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    adapter = None
    if has_adapter(config):
        adapter = build_adapter(config, adapter_shapes(causal_lm, config.adapter.targets), device)
        adapter.attach(causal_lm)
    policy = PolicyModel(
        causal_lm,
        temperature=config.rollout.temperature,
        logits_chunk=_logits_chunk(config, causal_lm),
        has_entropy_gradient=config.method.rl_settings.entropy_weight > 0,
    )
    return policy, adapter


def _causal_lm(config: RunConfig, weights: CheckpointWeights | None) -> PreTrainedModel:
    path, dtype = config.model.path, DTYPES[config.model.dtype]
    options: dict[str, Any] = {
        "activation_checkpointing": config.learner.activation_checkpointing,
        "attention": _attention(config),
    }
    if weights:
        empty = unloaded_causal_lm(path, dtype, **options)
        if weights.cover(empty):
            return empty
        log.warning("%s names its weights differently: every rank loads it whole", path)
    return load_causal_lm(path, dtype, **options)


def build_reference(config: RunConfig) -> PolicyModel:
    """Load pi_ref, the frozen start without adapter; whole on every rank, in the model's type."""
    causal_lm = load_causal_lm(
        config.model.path, DTYPES[config.model.dtype], attention=_attention(config)
    )
    causal_lm.to("cuda" if torch.cuda.is_available() else "cpu")
    policy = PolicyModel(
        causal_lm,
        temperature=config.rollout.temperature,
        logits_chunk=_logits_chunk(config, causal_lm),
    )
    return policy.requires_grad_(False)


def _attention(config: RunConfig) -> str | None:
    """Return what to ask transformers for; None: its default, SDPA where the model has it."""
    kind = attention(config)
    if kind == "varlen":
        varlen.register()
        return varlen.NAME
    return None if kind == "sdpa" else kind


def _logits_chunk(config: RunConfig, causal_lm: PreTrainedModel) -> int:
    return chunk_for(
        config.learner.logits_gib * GIB, causal_lm.get_output_embeddings().out_features
    )
