"""Rules across sections about guidance, shadow, gain, lag and devices, for the schema's validators.

Each raises ValueError with what was got and what to change.
"""

from typing import TYPE_CHECKING

from coop_rl.config.method import AlternateMethod, BridgeMethod, ReliftMethod

if TYPE_CHECKING:
    from coop_rl.config.schema import RunConfig, ServingConfig

LOOKAHEAD = ("mix", "demonstrations")


def check_guidance(config: "RunConfig") -> None:
    """Refuse guidance that nothing measures, and measurements that nothing serves."""
    if not isinstance(config.method, BridgeMethod):
        return
    if not config.meta.guidance:
        raise ValueError("meta.guidance must name adapter, mix or demonstrations, got none")
    if "adapter" in config.meta.guidance and config.meta.w_objective != "frozen":
        _check_adapter_gradients_exist(config, config.method)
    _check_lookahead(config, config.method)
    _check_shadow(config)


def check_lag(config: "RunConfig") -> None:
    """Refuse to sample ahead for steps that may not come, and to mix versions without a lag."""
    lag = config.rollout.max_policy_lag
    if config.rollout.in_flight_updates and lag == 0:
        raise ValueError(
            "rollout.in_flight_updates needs rollout.max_policy_lag >= 1, got 0; raise the lag or "
            "set in_flight_updates false"
        )
    if lag > 0 and isinstance(config.method, AlternateMethod | ReliftMethod):
        raise ValueError(
            f"method.kind {config.method.kind} has steps without rollouts, so what is sampled "
            f"ahead grows too old; set rollout.max_policy_lag 0, got {lag}"
        )


def check_colocated(config: "RunConfig") -> None:
    """Refuse turns that nobody can take, and transfers between two ranks on one device."""
    place, lag = config.placement, config.rollout.max_policy_lag
    if not place.colocated:
        return
    if lag > 0:
        raise ValueError(
            "placement.colocated makes engines rest while learners train; set "
            f"rollout.max_policy_lag 0, got {lag}"
        )
    if place.rollout.gpus >= 1 or place.learner.gpus >= 1:
        raise ValueError(
            "placement.colocated shares devices; give placement.rollout.gpus and "
            f"placement.learner.gpus fractions, got {place.rollout.gpus:g} and "
            f"{place.learner.gpus:g}"
        )
    if config.sync.backend == "nccl":
        raise ValueError(
            "sync.backend nccl cannot connect two processes on one device, which "
            "placement.colocated asks for; set auto or gloo"
        )


def check_engines(config: "ServingConfig") -> None:
    """Refuse engines whose workers have not just one device each."""
    gpus, workers = config.placement.rollout.gpus, config.rollout.tensor_parallel_size
    if workers > 1 and gpus not in (0, workers):
        raise ValueError(
            f"rollout.tensor_parallel_size {workers} needs as many devices for every engine; set "
            f"placement.rollout.gpus {workers}, got {gpus:g}"
        )


def check_ranks(config: "RunConfig") -> None:
    """Refuse two ranks of a learner group on one device, which NCCL cannot connect."""
    place, ranks = config.placement, config.learner.num_ranks
    for name, role in (("learner", place.learner), ("shadow", place.shadow)):
        if ranks > 1 and 0 < role.gpus <= 0.5 and role.strategy != "strict_spread":
            raise ValueError(
                f"placement.{name}.gpus {role.gpus:g} lets two of learner.num_ranks {ranks} lie on "
                "one device, which NCCL cannot connect; give more than 0.5, or one rank, or on "
                "nodes of one GPU strategy strict_spread"
            )


def _check_adapter_gradients_exist(config: "RunConfig", method: BridgeMethod) -> None:
    """Refuse a w-update from a gradient that theta's mix never computes."""
    if method.mix_schedule != "constant" or "mix" in config.meta.guidance:
        return  # neither reaches 0 or 1
    needs_rl = config.penalty > 0 and config.meta.w_objective != "sft"
    needs_sft = config.penalty < 1 or config.meta.w_objective == "sft"
    for share, needed, name in ((method.mix, needs_rl, "RL"), (1 - method.mix, needs_sft, "SFT")):
        if needed and share == 0:
            raise ValueError(
                f"method.mix {method.mix} computes no {name} gradient, but w needs it with "
                f"meta.w_objective {config.meta.w_objective} and meta.penalty {config.penalty}; "
                "set meta.w_objective frozen, or change method.mix or meta.penalty"
            )


def _check_lookahead(config: "RunConfig", method: BridgeMethod) -> None:
    """Refuse what the derivative of one whole optimiser step does not cover."""
    kinds = [kind for kind in LOOKAHEAD if kind in config.meta.guidance]
    if not kinds:
        return
    named = ", ".join(kinds)
    if config.learner.num_minibatches * config.learner.num_epochs > 1:
        raise ValueError(
            f"meta.guidance {named} differentiates one optimiser step; set "
            "learner.num_minibatches and learner.num_epochs to 1"
        )
    if "mix" in kinds and method.mix_schedule != "constant":
        raise ValueError(
            f"method.mix_schedule {method.mix_schedule} and meta.guidance mix both set lambda; "
            "choose one"
        )
    if config.meta.mix_min >= config.meta.mix_max:
        raise ValueError(
            f"meta.mix_min must be below meta.mix_max {config.meta.mix_max}, "
            f"got {config.meta.mix_min}"
        )
    if "mix" not in kinds and method.mix in (0.0, 1.0):
        raise ValueError(
            f"meta.guidance {named} needs both losses, got method.mix {method.mix:g}; "
            "choose one between 0 and 1"
        )
    if config.meta.per_example and config.model.dtype != "float32":
        raise ValueError(
            f"meta.per_example takes small differences of losses, which model.dtype "
            f"{config.model.dtype} rounds away; set float32, or meta.per_example false"
        )


def check_profile(config: "RunConfig") -> None:
    """Refuse to record steps that the run does not have."""
    steps, num_steps = config.observability.profile_steps, config.run.num_steps
    if steps is not None and not steps[0] <= steps[1] < num_steps:
        raise ValueError(
            f"observability.profile_steps must be a first and a last step below run.num_steps "
            f"{num_steps}, got {steps[0]} and {steps[1]}"
        )


def _check_shadow(config: "RunConfig") -> None:
    """Refuse what needs rollout actors that serve the shadow, where there are none."""
    wanted = {
        "gain.estimator fresh": config.gain.estimator == "fresh",
        "gain.audit_every": config.gain.audit_every > 0,
        "shadow.rollouts own": config.shadow.rollouts == "own",
    }
    if config.shadow.num_rollout_actors == 0:
        for name, is_wanted in wanted.items():
            if is_wanted:
                raise ValueError(
                    f"{name} samples from the shadow; set shadow.num_rollout_actors to 1 or more"
                )
    if config.shadow.rollouts == "own" and config.gain.estimator == "reweighted":
        raise ValueError(
            "shadow.rollouts own leaves no shared rollouts to reweight; set gain.estimator fresh"
        )
    for name, section in (("shadow", config.shadow), ("learner", config.learner)):
        if section.offload and config.learner.zero_stage in (1, 2):
            raise ValueError(
                f"{name}.offload needs learner.zero_stage 0 or 3, got {config.learner.zero_stage}; "
                "DeepSpeed keeps views of the optimiser state at the others"
            )
