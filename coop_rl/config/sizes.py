"""Every size that follows from the config, for the table printed before anything starts."""

from dataclasses import dataclass
from typing import Literal

from coop_rl.config.method import BridgeMethod
from coop_rl.config.rivals import ColdStartMethod, LspoMethod, ReliftMethod
from coop_rl.config.roles import RoleResources
from coop_rl.config.schema import RunConfig, ServingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What all actors together ask of the machine or the cluster."""

    cpus: dict[str, float]
    """Logical CPUs by role, all actors of the role together."""
    gpus: dict[str, float]
    """GPUs by role."""

    @property
    def total_cpus(self) -> float:
        """Logical CPUs of all roles."""
        return sum(self.cpus.values())

    @property
    def total_gpus(self) -> float:
        """GPUs of all roles."""
        return sum(self.gpus.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSizes(Devices):
    """Counts per meta-step, and devices per role."""

    num_prompts: int
    num_samples: int
    num_demonstrations: int
    max_response_tokens: int
    num_ranks: int
    samples_per_rank: int
    demonstrations_per_rank: int
    micro_batch_tokens: int
    optimizer_steps: int


def has_adapter(config: RunConfig) -> bool:
    """Whether there is an adapter, w: part of the policy, or a scaffold beside it."""
    is_part = config.method.is_guided and "adapter" in config.meta.guidance
    return is_part or has_scaffold(config)


def has_scaffold(config: RunConfig) -> bool:
    """Whether w is a scaffold, so that theta alone is trained, evaluated and published."""
    is_guided = config.method.is_guided and "scaffold" in config.meta.guidance
    return is_guided or isinstance(config.method, LspoMethod)


def scaffold_samples(config: RunConfig) -> int:
    """Return how many responses to a failed prompt are sampled again with the scaffold."""
    method = config.method
    share = method.share if isinstance(method, LspoMethod) else config.meta.scaffold_share
    return max(1, int(share * config.rollout.samples_per_prompt))


def scaffold_fit_steps(config: RunConfig) -> int:
    """Return the steps in which learners fit the scaffold; 0: the meta-controller does, or none."""
    return config.method.fit_steps if isinstance(config.method, LspoMethod) else 0


def has_shadow(config: RunConfig) -> bool:
    """Whether the run has the branch `shadow`: it does where w follows the bracket."""
    return config.method.is_guided and config.meta.needs_shadow


def learner_devices(config: RunConfig) -> int:
    """Return the devices that learners of both branches lie on."""
    place, branches = config.placement, 2 if has_shadow(config) else 1
    shares_device = 0 < place.learner.gpus + place.shadow.gpus <= 1
    return config.learner.num_ranks * (1 if shares_device else branches)


def has_one_step_shadow(config: RunConfig) -> bool:
    """Whether `joint` measures the gain by itself, beside its own steps."""
    return config.method.is_guided and not has_shadow(config) and config.gain.every > 0


def has_second_optimizer(config: RunConfig) -> bool:
    """Whether theta's steps of another kind have an AdamW state of their own."""
    method = config.method
    has_fresh = isinstance(method, ColdStartMethod) and method.fresh_optimizer
    return has_fresh or isinstance(method, ReliftMethod)


def cold_start_steps(config: RunConfig) -> int:
    """Return how many steps of SFT alone come first, as far as the config says."""
    method = config.method
    return method.cold_start_steps if isinstance(method, BridgeMethod) else 0


def amplifies_bracket(config: RunConfig) -> bool:
    """Whether theta goes to the shadow at every step, where rounding hides their difference."""
    is_reweighted = config.gain.estimator != "fresh" and config.shadow.rollouts == "shared"
    return has_shadow(config) and config.model.dtype != "float32" and is_reweighted


def learns_by_lookahead(config: RunConfig) -> bool:
    """Whether the meta-controller learns from what one update does to the next batch's return."""
    kinds = set(config.meta.guidance) & {"mix", "demonstrations"}
    return config.method.is_guided and bool(kinds)


def num_sources(config: RunConfig) -> int:
    """Return how many sources of demonstrations are told apart, as far as the config says."""
    if not (config.method.is_guided and "demonstrations" in config.meta.guidance):
        return 1
    section = config.demonstrations
    return section.bins if section.split_by else max(1, len(section.mixture))


def mix_and_penalty(config: RunConfig) -> tuple[float, float]:
    """Return (lambda, lambda_w) of a guided method.

    lambda is RL's share in theta's first step where no schedule sets it: method.mix, within the
    bounds of `mix` guidance where that learns it. lambda_w is the bracket's share in w's step.
    """
    method, meta = config.method, config.meta
    assert isinstance(method, BridgeMethod), f"{method.kind} is not guided"
    mix = method.mix
    if "mix" in meta.guidance:
        mix = min(max(mix, meta.mix_min), meta.mix_max)
    return mix, method.penalty(meta)


def zero_stage(config: RunConfig, ranks: int | None = None) -> int:
    """Return the ZeRO stage at which a learner group runs.

    One rank has nobody to split with: it takes stage 0, which computes the same step without the
    copies of gradients that the other stages make.

    Args:
        config: The run.
        ranks: Ranks of the group; None: learner.num_ranks.
    """
    return 0 if (ranks or config.learner.num_ranks) == 1 else config.learner.zero_stage


def writes_beside(config: RunConfig) -> bool:
    """Whether learners write checkpoints while they train."""
    asked = config.checkpoint.beside_training
    return config.placement.learner.gpus > 0 if asked is None else asked


def attention(config: RunConfig) -> Literal["sdpa", "varlen", "flash_attention_2"]:
    """Return `learner.attention`, or what suits the learners' device and type."""
    if config.learner.attention is not None:
        return config.learner.attention
    is_16_bit_gpu = config.placement.learner.gpus > 0 and config.model.dtype == "bfloat16"
    return "varlen" if is_16_bit_gpu else "sdpa"


def learner_timeout_s(config: RunConfig) -> float:
    """Return how long a learner rank may wait for the others of its group within a step."""
    if config.learner.timeout_s is not None:
        return config.learner.timeout_s
    is_on_gpu = config.placement.learner.gpus > 0
    return config.placement.call_timeout_s if is_on_gpu else config.sync.timeout_s


def weight_backend(config: ServingConfig) -> Literal["gloo", "nccl"]:
    """Return `nccl` where rollout actors and learners have whole devices of their own, else `gloo`.

    NCCL refuses two ranks on one device.
    """
    if config.sync.backend != "auto":
        return config.sync.backend
    place = config.placement
    own_devices = all(role.gpus >= 1 for role in (place.rollout, place.learner))
    return "nccl" if own_devices else "gloo"


def may_share_memory(config: ServingConfig, receiver: RoleResources) -> bool:
    """Whether what goes by gloo is first offered in memory that `receiver` may see.

    That of a GPU only where both have parts of one: torch keeps a block that nobody has opened.
    """
    ours = config.placement.learner.gpus
    return config.sync.backend == "auto" and (not ours or 0 < receiver.gpus < 1 > ours)


def may_share_device(config: ServingConfig, receiver: RoleResources) -> bool:
    """Whether that memory is a GPU's."""
    return config.placement.learner.gpus > 0 and may_share_memory(config, receiver)


def shadow_backend(config: RunConfig) -> Literal["gloo", "nccl"]:
    """Return how theta gets to the shadow: `nccl` where both branches have whole devices of GPUs.

    `sync.backend` gloo takes all through host memory.
    """
    place = config.placement
    own_devices = min(place.learner.gpus, place.shadow.gpus) >= 1
    return "nccl" if own_devices and config.sync.backend != "gloo" else "gloo"


def named_verifiers(config: ServingConfig) -> set[str]:
    """Return the verifiers that sources of data name for their rows."""
    return {source.verifier for source in config.sources if source.verifier is not None}


def reads_demonstrations(config: RunConfig) -> bool:
    """Return whether a run reads demonstrations: to learn from them, or to measure some alone."""
    return config.method.demonstrations != "none" or bool(config.evaluation.num_demonstrations)


def validation_rows(config: RunConfig, num_rows: int) -> int:
    """Return how many of `num_rows` demonstrations are kept from training, for validation."""
    given = config.evaluation.num_demonstrations
    return config.method.num_validation_rows(num_rows) if given is None else given


def derive_sizes(config: RunConfig) -> DerivedSizes:
    """Return the sizes that the config's counts multiply out to."""
    trains_rl = config.method.samples
    trains_sft = config.method.demonstrations != "none"
    num_samples = config.prompts.per_step * config.rollout.samples_per_prompt if trains_rl else 0
    num_demonstrations = config.demonstrations.per_step if trains_sft else 0
    ranks = config.learner.num_ranks
    return DerivedSizes(
        num_prompts=config.prompts.per_step if trains_rl else 0,
        num_samples=num_samples,
        num_demonstrations=num_demonstrations,
        max_response_tokens=config.rollout.max_tokens,
        num_ranks=ranks,
        samples_per_rank=-(-num_samples // ranks),
        demonstrations_per_rank=-(-num_demonstrations // ranks),
        micro_batch_tokens=config.learner.micro_batch_tokens,
        optimizer_steps=config.run.num_steps
        * config.learner.num_minibatches
        * config.learner.num_epochs,
        **_by_role(role_counts(config)),
    )


def role_counts(config: ServingConfig) -> dict[str, tuple[int, RoleResources]]:
    """Return how many actors each role starts with, and what one of them asks for.

    A config that is no `RunConfig` has rollout and reward actors only.
    """
    place = config.placement
    serving = {
        "rollout": (config.rollout.min_actors, place.rollout),
        "reward": (config.reward.num_actors, place.reward),
    }
    if not isinstance(config, RunConfig):
        return serving
    ranks, with_shadow = config.learner.num_ranks, has_shadow(config)
    num_evaluating = config.evaluation.num_rollout_actors
    beside = {"rollout evaluation": (num_evaluating, place.rollout)} if num_evaluating else {}
    return {
        "rollout": serving["rollout"],
        "learner joint": (ranks, place.learner),
        "learner shadow": (ranks if with_shadow else 0, place.shadow),
        "rollout shadow": (config.shadow.num_rollout_actors if with_shadow else 0, place.rollout),
        "meta-controller": (int(config.method.is_guided), place.meta),
        "reward": serving["reward"],
        **beside,
    }


def serving_devices(config: ServingConfig) -> Devices:
    """Return what rollout and reward actors ask for."""
    return Devices(**_by_role(role_counts(config)))


def _by_role(counts: dict[str, tuple[int, RoleResources]]) -> dict[str, dict[str, float]]:
    return {
        "cpus": {role: count * need.cpus for role, (count, need) in counts.items()},
        "gpus": {role: count * need.gpus for role, (count, need) in counts.items()},
    }
