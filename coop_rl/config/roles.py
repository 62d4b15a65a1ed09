"""Sections that size the roles: `rollout`, `learner`, `sync`, `placement`."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from coop_rl.config.base import Section
from coop_rl.config.optimizer import OptimizerSection
from coop_rl.redaction import SECRET_NAME


class ActorRange(Section):
    """How many rollout actors a run has on a cluster whose nodes come and go."""

    min: int = Field(ge=1)
    """The run starts as soon as so many have room, and goes on with as few."""
    max: int = Field(ge=1)
    """As many more as find room join while the run goes on, up to so many in all."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max must be at least min {self.min}, got {self.max}")
        return self

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.min} to {self.max}"


def _read_num_actors(value: Any) -> int | ActorRange:
    """Read either form, so that an error tells of both."""
    if isinstance(value, ActorRange | dict):
        return ActorRange.model_validate(value)
    try:
        number = TypeAdapter(int).validate_python(value)
    except ValidationError:
        number = 0
    if number < 1:
        raise ValueError("must be an integer of at least 1, or {min: A, max: B}")
    return number


class RolloutSection(Section):
    """Rollout actors: one vLLM engine each."""

    num_actors: Annotated[
        Annotated[int, Field(ge=1)] | ActorRange, BeforeValidator(_read_num_actors)
    ] = 1
    """Rollout actors, each with an engine of its own; `{min: A, max: B}`: they come and go with the
    nodes of a cluster."""
    samples_per_prompt: int = Field(8, ge=1)
    """G, the group size; the group-relative baseline needs at least 2."""
    max_tokens: int = Field(256, ge=1)
    """Upper limit of response tokens."""
    mask_truncated: bool = False
    """Whether responses that the limit cut off are left out of the loss and of what it divides by,
    as DAPO's overlong filtering does; their rewards still count in their group's baseline."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature during training; the learners score at the same one."""
    max_policy_lag: int = Field(0, ge=0)
    """How many versions behind the policy a rollout may be when learners train on it; 0:
    synchronous; from 1 on, the prompts of so many steps are sampled ahead while learners train."""
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
    enforce_eager: bool | None = None
    """Skip graph capture: engines start sooner, but are slower on GPUs; null: on CPUs only."""
    tensor_parallel_size: int = Field(1, ge=1)
    """Devices per engine, all of one node; on GPUs `placement.rollout.gpus` must be the same."""
    prefix_caching: bool = True
    """Share the prompt's key-value cache between the samples of a group."""

    @property
    def is_elastic(self) -> bool:
        """Whether rollout actors come and go with the nodes of a cluster."""
        return isinstance(self.num_actors, ActorRange)

    @property
    def min_actors(self) -> int:
        """Rollout actors that a run starts with."""
        return self.num_actors.min if isinstance(self.num_actors, ActorRange) else self.num_actors

    @property
    def max_actors(self) -> int:
        """Rollout actors that a run has at most."""
        return self.num_actors.max if isinstance(self.num_actors, ActorRange) else self.num_actors


class LearnerSection(OptimizerSection):
    """The learner groups: joint's and the shadow's are built from the same settings."""

    num_ranks: int = Field(1, ge=1)
    """Ranks of each learner group."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage; a single rank has nothing to split and takes 0."""
    lr: float = Field(1e-6, ge=0)
    """Learning rate of theta and theta-hat."""
    num_minibatches: int = Field(1, ge=1)
    """Optimiser steps that a meta-step's data is cut into; a prompt's responses stay together."""
    num_epochs: int = Field(1, ge=1)
    """Passes over a meta-step's data."""
    micro_batch_tokens: int = Field(16384, ge=1)
    """Upper limit of a micro-batch's tokens, padding included; a longer sequence is a micro-batch
    of its own."""
    packing: Literal["trees", "lanes", "padded"] = "trees"
    """`trees`: the responses to a prompt share the prompt's computation, and short sequences lie
    one behind the other, where that saves time; `lanes`: only the latter; `padded`: each sequence
    has a lane of its own. The choice changes no log-prob, which every learner checks when it
    starts."""
    attention: Literal["sdpa", "varlen", "flash_attention_2"] | None = None
    """`varlen`: torch's attention of variable length (GPUs, bfloat16; on CPUs a slow stand-in):
    sequences lie one behind the other without any padding, whatever `packing` says, and the
    responses to a prompt share it; `flash_attention_2`: the same without sharing, by the package
    flash-attn; null: `varlen` on GPUs in bfloat16, else `sdpa`."""
    logits_gib: float = Field(1.0, gt=0)
    """Memory in GiB for vocabulary logits: as many as fit are kept for the backward pass, the
    others are computed again, a chunk at a time."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    offload: bool = False
    """Keep AdamW's moments of both branches in host memory except during the update itself, which
    then lasts as long as moving them there and back; zero_stage 0 or 3 only."""
    grad_stats_every: int = Field(1, ge=0)
    """Steps between measurements of the SFT and RL gradient norms and cosine; 0: never."""
    num_threads: int = Field(1, ge=1)
    """CPU threads of each learner rank."""
    timeout_s: float | None = Field(None, gt=0)
    """Seconds that a rank may wait for the others of its group within a step; null:
    `sync.timeout_s`, and on GPUs `placement.call_timeout_s`: there a rank that has queued its work
    waits in the collective itself for all that slower ranks still have to compute."""


class SyncSection(Section):
    """How weights get to the rollout actors, and w to the learners."""

    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """`auto`: nccl where the roles have devices of their own, else gloo, which takes memory that
    processes share, of one machine or one GPU; `gloo`: over sockets whatever they share."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds that a single collective or weight update may take."""
    canary_every: int = Field(10, ge=0)
    """After every so many syncs, all engines' log-probs of canary tokens are compared with the
    learner's; 0: only after the first."""
    canary_tolerance: float | None = Field(None, gt=0)
    """Largest mean difference of these log-probs, in nats; null: 0.001 where engines and learners
    are fp32, 0.02 where they are and engines are on GPUs, whose attention rounds to TF32, else 0.1.
    """


class RoleResources(Section):
    """What Ray reserves for one actor of a role; fractions let roles share."""

    cpus: float = Field(0.0, ge=0)
    """Logical CPUs."""
    gpus: float = Field(0.0, ge=0)
    """GPUs; the actor sees no others, and none at 0."""
    strategy: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """Which nodes the role's actors share: `pack`: few nodes, `spread`: many; `strict_pack`: all
    one node, `strict_spread`: each has a node of its own."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that may hold the actor, such as `{role: rollout}` or
    `{ray.io/accelerator-type: H100}`."""


class PlacementSection(Section):
    """Where the roles run; the only section that differs between a laptop and a cluster."""

    address: str | None = None
    """null: start a local Ray; `auto` or an address: join that cluster."""
    rollout: RoleResources = RoleResources(cpus=1)
    """What each rollout actor reserves."""
    learner: RoleResources = RoleResources(cpus=1)
    """What each rank of joint's learner group reserves."""
    shadow: RoleResources = RoleResources(cpus=1)
    """What each rank of the shadow's learner group reserves."""
    meta: RoleResources = RoleResources()
    """What the meta-controller reserves; at 0 it runs beside joint's first rank."""
    colocated: bool = False
    """Rollout actors and learners share devices and take turns: while learners train, engines keep
    their weights in host memory and have no key-value cache (on CPUs they only rest). Give each
    role a fraction of a GPU; needs rollout.max_policy_lag 0."""
    reward: RoleResources = RoleResources()
    """What each reward actor reserves; at 0 it runs beside joint's first rank. Its worker processes
    come on top."""
    driver: RoleResources = RoleResources()
    """What the driver of a submitted job reserves, as the entrypoint that `coop-rl submit` gives
    Ray."""
    environment: list[str] = Field(default_factory=list)
    """Names of the environment variables that a cluster's actors and a submitted driver get from
    where the run is started. No others travel, and no secrets: Ray shows them to whoever may
    look."""
    min_nodes: int = Field(1, ge=1)
    """Nodes to wait for before anything is placed: on a cluster that is still coming up and has no
    autoscaler, what does not fit on the nodes already there would be refused at once."""
    startup_timeout_s: float = Field(600.0, gt=0)
    """Longest wait, in seconds, for the actors to come up."""
    call_timeout_s: float = Field(1800.0, gt=0)
    """Longest wait, in seconds, for a step's generation or training call."""
    stop_grace_s: int = Field(600, ge=1)
    """Seconds that a submitted job may take to end with a checkpoint when it is stopped; Ray alone
    would kill it after 3."""

    @field_validator("environment")
    @classmethod
    def _check_no_secrets(cls, names: list[str]) -> list[str]:
        """Refuse what Ray's job API would show."""
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"must hold names of environment variables, got {name!r}")
            if SECRET_NAME.search(name):
                raise ValueError(
                    f"{name} looks like a secret, which Ray's job API and dashboard would show; "
                    "give it to the nodes instead, by a Kubernetes Secret or a file"
                )
        return names

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        """Refuse labels of actors that reserve nothing, but for the driver, which Ray places."""
        for role in ("rollout", "learner", "shadow", "meta", "reward"):
            need: RoleResources = getattr(self, role)
            if need.labels and not need.cpus and not need.gpus:
                raise ValueError(
                    f"{role}.labels choose nodes for what the role reserves, which is nothing; "
                    "set its cpus or gpus as well"
                )
        return self
