"""Sections that size the roles: `rollout`, `learner`, `sync`, `placement`."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from coop_rl.config.base import Section

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
"""Names of environment variables that hold secrets."""


class RolloutSection(Section):
    """Rollout actors: one vLLM engine each."""

    num_actors: int = Field(1, ge=1)
    """Engines that generate."""
    samples_per_prompt: int = Field(8, ge=1)
    """G, the group size; the group-relative baseline needs at least 2."""
    max_tokens: int = Field(256, ge=1)
    """Upper limit of response tokens."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature during training; the learners score at the same one."""
    max_policy_lag: int = Field(0, ge=0)
    """How many versions old a trained rollout may be; 0: synchronous; 1 and more: that many steps'
    prompts are sampled ahead while learners train."""
    in_flight_updates: bool = False
    """Give engines new weights in the middle of responses, which go on with them, instead of
    waiting for responses to end; needs max_policy_lag >= 1."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Weight and compute type of the engine."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """CPU engines only: key-value cache size; null: for `max_num_seqs` sequences of full length,
    but at most a quarter of the free memory."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1.0)
    """GPU engines only: share of the device's memory vLLM may take."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Sequences an engine runs at once; null: its share of the samples that may be under way, up to
    256 on CPUs and 512 on a GPU."""
    enforce_eager: bool = True
    """Skip graph capture: quicker start, slower on GPUs."""
    tensor_parallel_size: int = Field(1, ge=1)
    """Devices per engine, all of one node; on GPUs `placement.rollout.gpus` is the same number."""
    prefix_caching: bool = True
    """Share the prompt's key-value cache between the samples of a group."""


class LearnerSection(Section):
    """The learner groups; `joint` and `shadow` are built from the same settings."""

    num_ranks: int = Field(1, ge=1)
    """Ranks of each learner group."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage; a single rank has nothing to split and takes 0."""
    lr: float = Field(1e-6, ge=0)
    """Rate of theta and theta-hat."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW weight decay."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises linearly to `lr`."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate goes on to `lr_final * lr` at the run's end."""
    lr_final: float = Field(0.0, ge=0.0, le=1.0)
    """Share of `lr` at the end; `linear` and `cosine` only."""
    num_minibatches: int = Field(1, ge=1)
    """Optimiser steps that one meta-step's rollouts are cut into; prompts stay whole."""
    num_epochs: int = Field(1, ge=1)
    """Passes over them."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The fused theta-gradient is scaled down to this norm when longer."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Upper limit of a micro-batch's tokens, padding included (a longer sequence makes its own)."""
    packing: Literal["trees", "lanes", "padded"] = "trees"
    """`trees`: the responses to a prompt share its computation, and short sequences lie behind each
    other, where that saves time; `lanes`: only the latter; `padded`: each has a lane for itself.
    None of them changes a log-prob, which every learner checks when it starts."""
    attention: Literal["sdpa", "flash_attention_2"] = "sdpa"
    """`flash_attention_2` needs GPUs and the package flash-attn; sequences then lie one behind the
    other without any padding, whatever `packing` says."""
    logits_gib: float = Field(1.0, gt=0)
    """Memory for vocabulary logits: as many as fit are kept for the backward pass, the others are
    computed anew, a chunk at a time."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    offload: bool = False
    """Keep AdamW's moments of both branches in host memory but for the update itself, which then
    lasts as long as moving them there and back; zero_stage 0 or 3 only."""
    grad_stats_every: int = Field(1, ge=0)
    """Steps between measurements of the SFT and RL gradient norms and cosine; 0: never."""
    num_threads: int = Field(1, ge=1)
    """CPU threads of each learner rank."""


class SyncSection(Section):
    """Weights to the rollout actors, guidance to the learners."""

    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """`auto`: nccl where the roles have devices of their own, else gloo through host memory."""
    timeout_s: float = Field(120.0, gt=0)
    """Longest any single collective or update call may take."""
    canary_every: int = Field(10, ge=0)
    """Every so many syncs all engines' log-probs of canary tokens are compared with the learner's;
    0: only at the start."""
    canary_tolerance: float | None = Field(None, gt=0)
    """Largest mean difference, nats; null: 0.001 where engines and learners are fp32, else 0.1."""


class RoleResources(Section):
    """What Ray reserves for one actor of a role; fractions let roles share."""

    cpus: float = Field(0.0, ge=0)
    """Logical CPUs."""
    gpus: float = Field(0.0, ge=0)
    """GPUs; the actor sees no others, and none at 0."""
    strategy: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """How the role's actors lie: on few nodes or on many; strict: on one, or each on its own."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that may hold it, such as `{role: rollout}` or
    `{ray.io/accelerator-type: H100}`."""


class PlacementSection(Section):
    """Where the roles run; the only section that differs between a laptop and a cluster."""

    address: str | None = None
    """null: start a local Ray; `auto` or an address: join that cluster."""
    rollout: RoleResources = RoleResources(cpus=1)
    """Each rollout actor."""
    learner: RoleResources = RoleResources(cpus=1)
    """Each rank of `joint`."""
    shadow: RoleResources = RoleResources(cpus=1)
    """Each rank of `shadow`."""
    meta: RoleResources = RoleResources()
    """The meta-controller; at 0 it lies beside the first rank of `joint`."""
    colocated: bool = False
    """Rollout actors and learners share devices and take turns: while learners train, engines keep
    their weights in host memory and have no key-value cache (on CPUs they only rest). Give both
    fractions of a GPU; needs rollout.max_policy_lag 0."""
    reward: RoleResources = RoleResources()
    """The reward actor, at 0 beside the first rank of `joint`; its worker processes come on top."""
    driver: RoleResources = RoleResources()
    """The driver of a submitted job: what `coop-rl submit` asks Ray to keep for the entrypoint."""
    environment: list[str] = Field(default_factory=list)
    """Names of environment variables that a cluster's actors and a submitted driver get from where
    the run is started; no others travel, and no secrets: Ray shows them to whoever may look."""
    min_nodes: int = Field(1, ge=1)
    """Nodes to wait for before anything is placed: on a cluster that is still coming up and that no
    autoscaler lets grow, what does not fit on the nodes there would be refused at once."""
    startup_timeout_s: float = Field(600.0, gt=0)
    """Longest wait for the actors to come up."""
    call_timeout_s: float = Field(1800.0, gt=0)
    """Longest wait for one step's generation or training call."""
    stop_grace_s: int = Field(600, ge=1)
    """How long a submitted job may take to end with a checkpoint when it is stopped; Ray alone
    would kill it after 3 s."""

    @field_validator("environment")
    @classmethod
    def _check_no_secrets(cls, names: list[str]) -> list[str]:
        """Refuse what Ray's job API would show."""
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"must hold names of environment variables, got {name!r}")
            if SECRET.search(name):
                raise ValueError(
                    f"{name} looks like a secret, which Ray's job API and dashboard would show; "
                    "give it to the nodes instead, by a Kubernetes Secret or a file"
                )
        return names

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        """Refuse labels of actors that reserve nothing; Ray itself places the driver by them."""
        for role in ("rollout", "learner", "shadow", "meta", "reward"):
            need: RoleResources = getattr(self, role)
            if need.labels and not need.cpus and not need.gpus:
                raise ValueError(
                    f"{role}.labels choose nodes for what the role reserves, which is nothing; "
                    "set its cpus or gpus as well"
                )
        return self
