"""What has to hold between sections: one function a rule, over the sections it relates.

`ServingConfig` and `RunConfig` apply them when they are built. Each raises ValueError with what was
got and what to change.
"""

from collections.abc import Sequence

from coop_rl.config.data import DemonstrationsSection, PromptsSection, RowSource
from coop_rl.config.estimators import DapoRl, ReweightedRl, RlSettings
from coop_rl.config.evaluation import EvaluationSection
from coop_rl.config.method import (
    BridgeMethod,
    GainSection,
    MetaSection,
    Method,
    ShadowSection,
)
from coop_rl.config.reward import RewardSection
from coop_rl.config.rivals import LspoMethod
from coop_rl.config.roles import LearnerSection, PlacementSection, RolloutSection
from coop_rl.config.run import CheckpointSection, ModelSection, ObservabilitySection, RunSection
from coop_rl.metric_names import VALIDATION_NLL, evaluation_name

LOOKAHEAD = ("mix", "demonstrations")
"""Guidance that learns from what one update does to the next batch's return."""


def check_verifiers(sources: Sequence[RowSource], reward: RewardSection) -> None:
    """Refuse rows judged by a function where the config names none."""
    for source in sources:
        if source.verifier == "python" and reward.kind != "python":
            raise ValueError(
                f"verifier python of {source.origin} needs reward.function, which goes with "
                f"reward.kind python, got {reward.kind}; choose another verifier"
            )


def check_sources(
    prompts: PromptsSection,
    demonstrations: DemonstrationsSection,
    method: Method,
    evaluation: EvaluationSection,
) -> None:
    """Refuse a run without the rows that its method learns from, or that it measures."""
    learns = f"method.kind {method.kind} learns from"
    shows = "evaluation.num_demonstrations measures" if method.demonstrations == "none" else learns
    is_shown = method.demonstrations != "none" or bool(evaluation.num_demonstrations)
    for name, section, is_read, why in (
        ("prompts", prompts, method.samples, learns),
        ("demonstrations", demonstrations, is_shown, shows),
    ):
        if is_read and not section.mixture and not section.has_source:
            raise ValueError(
                f"{why} {name}: give one of {name}.mixture, "
                f"{name}.path (JSONL or parquet files), {name}.dataset (Hugging Face) and "
                f"{name}.task (reasoning-gym), got none"
            )


def check_group_size(rollout: RolloutSection, method: Method) -> None:
    """Refuse groups of one response, whose advantage would always be 0."""
    if method.samples and rollout.samples_per_prompt < 2:
        raise ValueError(
            "rollout.samples_per_prompt must be >= 2 for a group-relative baseline, got "
            f"{rollout.samples_per_prompt}"
        )


def check_minibatches(
    learner: LearnerSection,
    prompts: PromptsSection,
    demonstrations: DemonstrationsSection,
    method: Method,
) -> None:
    """Refuse minibatches without a prompt; of demonstrations, where the method samples nothing."""
    name, section = ("prompts", prompts) if method.samples else ("demonstrations", demonstrations)
    if learner.num_minibatches > section.per_step:
        raise ValueError(
            f"learner.num_minibatches must be at most {name}.per_step "
            f"{section.per_step}, got {learner.num_minibatches}; {name} stay whole"
        )


def check_evaluation_sets(evaluation: EvaluationSection) -> None:
    """Refuse a run whose evaluations would measure nothing."""
    if not evaluation.set_names:
        raise ValueError(
            "evaluation needs data (held-out prompts) or benchmarks to measure anything, got "
            "neither; add one to the config"
        )


def check_best(checkpoint: CheckpointSection, evaluation: EvaluationSection) -> None:
    """Refuse to wait for a metric that no evaluation measures."""
    known = {evaluation_name(n, f) for n in evaluation.set_names for f in evaluation.figures}
    known.add(VALIDATION_NLL)
    if checkpoint.best is not None and checkpoint.best not in known:
        raise ValueError(
            f"checkpoint.best {checkpoint.best} is no metric of the evaluation; "
            f"allowed: {', '.join(sorted(known))}"
        )


def check_background(
    evaluation: EvaluationSection, checkpoint: CheckpointSection, placement: PlacementSection
) -> None:
    """Refuse figures that come when training has gone on, where something waits for them."""
    if evaluation.num_rollout_actors == 0:
        return
    name = f"evaluation.num_rollout_actors {evaluation.num_rollout_actors}"
    if checkpoint.best not in (None, VALIDATION_NLL):
        raise ValueError(
            f"checkpoint.best {checkpoint.best} keeps the state that was measured, but {name} "
            "measures it while training goes on; set evaluation.num_rollout_actors 0, or "
            f"checkpoint.best {VALIDATION_NLL} or null"
        )
    if placement.colocated:
        raise ValueError(
            f"{name} samples while learners train, when placement.colocated has all engines "
            "asleep; set evaluation.num_rollout_actors 0, or placement.colocated false"
        )


def check_overlong(method: Method, rollout: RolloutSection) -> None:
    """Refuse a penalty on length that would begin beyond the longest response."""
    rl, limit = method.rl_settings, rollout.max_tokens
    if isinstance(rl, DapoRl) and rl.overlong_tokens is not None and rl.overlong_tokens > limit:
        raise ValueError(
            f"method.rl.overlong_tokens must be at most rollout.max_tokens {limit}, "
            f"got {rl.overlong_tokens}"
        )


def check_masked(method: Method, rollout: RolloutSection) -> None:
    """Refuse to mask by the advantage where the loss has a term that does not depend on it."""
    if rollout.mask_truncated and method.kind == "self_distil":
        raise ValueError(
            "rollout.mask_truncated takes responses out of the policy gradient, but method.kind "
            "self_distil learns from a teacher's log-probs; set rollout.mask_truncated false"
        )


def check_guidance(meta: MetaSection) -> None:
    """Refuse a meta-controller with nothing to tune, and weights of what it does not tune."""
    if not meta.guidance:
        raise ValueError(
            "meta.guidance must name adapter, mix, demonstrations or scaffold, got none"
        )
    if meta.per_example and "demonstrations" not in meta.guidance:
        raise ValueError(
            "meta.per_example weighs single demonstrations, which needs demonstrations in "
            f"meta.guidance, got {', '.join(meta.guidance)}; add it, or set meta.per_example false"
        )


def check_split(demonstrations: DemonstrationsSection, meta: MetaSection, method: Method) -> None:
    """Refuse bins of demonstrations that nobody weighs."""
    split_by = demonstrations.split_by
    is_weighed = method.is_guided and "demonstrations" in meta.guidance
    if split_by is not None and not is_weighed:
        raise ValueError(
            f"demonstrations.split_by {split_by} makes bins for demonstrations guidance to weigh; "
            "add demonstrations to meta.guidance (method.kind bridge), or set split_by null"
        )


def check_gradients_of_w(meta: MetaSection, method: BridgeMethod) -> None:
    """Refuse a w-update from a gradient that theta's mix never computes, or that weighs nothing."""
    if "adapter" not in meta.guidance or meta.w_objective == "frozen":
        return
    penalty = method.penalty(meta)
    if meta.w_objective == "sft" and penalty == 1:
        raise ValueError(
            "meta.w_objective sft weighs the SFT gradient of w by 1 - meta.penalty (null: "
            "method.mix), which is 0; lower meta.penalty, or set meta.w_objective frozen"
        )
    if method.mix_schedule != "constant" or "mix" in meta.guidance:
        return  # neither reaches 0 or 1
    needs_rl = penalty > 0 and meta.w_objective != "sft"
    needs_sft = penalty < 1 or meta.w_objective == "sft"
    for share, needed, name in ((method.mix, needs_rl, "RL"), (1 - method.mix, needs_sft, "SFT")):
        if needed and share == 0:
            raise ValueError(
                f"method.mix {method.mix} computes no {name} gradient, but w needs it with "
                f"meta.w_objective {meta.w_objective} and meta.penalty {penalty}; "
                "set meta.w_objective frozen, or change method.mix or meta.penalty"
            )


def check_cold_start(run: RunSection, meta: MetaSection, method: BridgeMethod) -> None:
    """Refuse a cold start that never ends, or one beside a shadow, which follows RL from step 0."""
    num_steps = method.cold_start_steps
    if num_steps >= run.num_steps:
        raise ValueError(
            f"method.cold_start_steps must be below run.num_steps {run.num_steps}, "
            f"got {num_steps}; method.kind sft is SFT alone"
        )
    if num_steps and meta.needs_shadow:
        raise ValueError(
            f"method.cold_start_steps {num_steps} samples nothing that the branch shadow could "
            f"follow, which meta.w_objective {meta.w_objective} needs; set meta.w_objective "
            "mixture, or method.cold_start_steps 0"
        )


def check_lookahead(
    meta: MetaSection, method: BridgeMethod, learner: LearnerSection, model: ModelSection
) -> None:
    """Refuse what look-ahead, the derivative of a single optimiser step, does not cover."""
    kinds = [kind for kind in LOOKAHEAD if kind in meta.guidance]
    if not kinds:
        return
    named = ", ".join(kinds)
    if learner.num_minibatches * learner.num_epochs > 1:
        raise ValueError(
            f"meta.guidance {named} differentiates one optimiser step; set "
            "learner.num_minibatches and learner.num_epochs to 1"
        )
    if "mix" in kinds and method.mix_schedule != "constant":
        raise ValueError(
            f"method.mix_schedule {method.mix_schedule} and meta.guidance mix both set lambda; "
            "choose one"
        )
    if meta.mix_min >= meta.mix_max:
        raise ValueError(
            f"meta.mix_min must be below meta.mix_max {meta.mix_max}, got {meta.mix_min}"
        )
    if "mix" not in kinds and method.mix in (0.0, 1.0):
        raise ValueError(
            f"meta.guidance {named} needs both losses, got method.mix {method.mix:g}; "
            "choose one between 0 and 1"
        )
    if meta.per_example and model.dtype != "float32":
        raise ValueError(
            f"meta.per_example takes small differences of losses, which model.dtype "
            f"{model.dtype} rounds away; set float32, or meta.per_example false"
        )


def check_shadow(
    shadow: ShadowSection,
    gain: GainSection,
    learner: LearnerSection,
    meta: MetaSection,
    rl: RlSettings,
) -> None:
    """Refuse samples of a shadow that no rollout actor serves, and moments that cannot be moved."""
    wanted = {
        "gain.estimator fresh": gain.estimator == "fresh",
        "gain.audit_every": gain.audit_every > 0,
        "shadow.rollouts own": shadow.rollouts == "own",
        "shadow.num_rollout_actors": shadow.num_rollout_actors > 0,
    }
    for name in (name for name, is_wanted in wanted.items() if is_wanted):
        if not meta.needs_shadow:
            raise ValueError(
                f"{name} samples from the branch shadow, which runs only where w follows it; set "
                "meta.w_objective cooperative, with adapter in meta.guidance, or drop it"
            )
        if rl.selects_groups and name in ("gain.estimator fresh", "shadow.rollouts own"):
            raise ValueError(
                f"{name} compares groups that dynamic sampling chose by joint's luck with groups "
                "that nobody chose; set gain.estimator reweighted and shadow.rollouts shared, or "
                "method.rl.max_refills 0"
            )
    if shadow.num_rollout_actors == 0:
        for name, is_wanted in wanted.items():
            if is_wanted:
                raise ValueError(
                    f"{name} samples from the shadow; set shadow.num_rollout_actors to 1 or more"
                )
    if shadow.rollouts == "own" and gain.estimator == "reweighted":
        raise ValueError(
            "shadow.rollouts own leaves no shared rollouts to reweight; set gain.estimator fresh"
        )
    for name, section in (("shadow", shadow), ("learner", learner)):
        if section.offload and learner.zero_stage in (1, 2):
            raise ValueError(
                f"{name}.offload needs learner.zero_stage 0 or 3, got {learner.zero_stage}; "
                "DeepSpeed keeps views of the optimiser state at the others"
            )


def check_scaffold(
    method: Method,
    meta: MetaSection,
    rollout: RolloutSection,
    reward: RewardSection,
    place: PlacementSection,
) -> None:
    """Refuse what second tries with a scaffold cannot go with."""
    is_guided_so = method.is_guided and "scaffold" in meta.guidance
    if not is_guided_so and not isinstance(method, LspoMethod):
        return
    name, rl = "meta.guidance scaffold" if is_guided_so else "method.kind lspo", method.rl_settings
    if is_guided_so and "adapter" in meta.guidance:
        raise ValueError(
            "meta.guidance adapter and scaffold are two uses of one w: part of the policy, or "
            "beside it; choose one"
        )
    if is_guided_so and meta.w_objective not in ("mixture", "cooperative", "frozen"):
        raise ValueError(
            f"meta.w_objective {meta.w_objective} is about a w in the policy; a scaffold follows "
            "the demonstrations of failed prompts; set mixture, the default, or frozen"
        )
    if isinstance(rl, DapoRl):
        raise ValueError(
            f"method.rl.kind dapo replaces the groups that all failed, which {name} has to see; "
            "choose another, such as grpo"
        )
    if rl.mismatch_cap is None and not isinstance(rl, ReweightedRl):
        raise ValueError(
            f"method.rl.mismatch_cap null leaves out the weight back from the scaffold, which "
            f"{name} needs; set a cap, or method.rl.kind reweighted"
        )
    if rollout.max_policy_lag > 0:
        raise ValueError(
            f"{name} samples twice at one version; set rollout.max_policy_lag 0, got "
            f"{rollout.max_policy_lag}"
        )
    if place.colocated:
        raise ValueError(
            f"{name} publishes twice a step, which placement.colocated has not been tried with; "
            "set it false"
        )
    if reward.shuffle or reward.flip_probability > 0:
        raise ValueError(
            f"reward.shuffle and reward.flip_probability do not reach the second tries of {name}; "
            "drop them"
        )


def check_lag(rollout: RolloutSection, method: Method) -> None:
    """Refuse sampling ahead for steps that use no rollouts, and in-flight updates without a lag."""
    lag = rollout.max_policy_lag
    if rollout.in_flight_updates and lag == 0:
        raise ValueError(
            "rollout.in_flight_updates needs rollout.max_policy_lag >= 1, got 0; raise the lag or "
            "set in_flight_updates false"
        )
    if lag > 0 and method.skips_rollouts:
        raise ValueError(
            f"method.kind {method.kind} has steps without rollouts, so what is sampled "
            f"ahead grows too old; set rollout.max_policy_lag 0, got {lag}"
        )


def check_profile(observability: ObservabilitySection, run: RunSection) -> None:
    """Refuse to record steps that the run does not have."""
    steps = observability.profile_steps
    if steps is not None and not steps[0] <= steps[1] < run.num_steps:
        raise ValueError(
            f"observability.profile_steps must be a first and a last step below run.num_steps "
            f"{run.num_steps}, got {steps[0]} and {steps[1]}"
        )


def check_masters(model: ModelSection, learner: LearnerSection) -> None:
    """Refuse bfloat16 weights at the ZeRO stage that keeps no fp32 masters of them."""
    if learner.zero_stage == 1 and model.dtype == "bfloat16":
        raise ValueError(
            "model.dtype bfloat16 needs fp32 masters, which learner.zero_stage 1 does not keep "
            "here; set learner.zero_stage 0, 2 or 3, or model.dtype float32"
        )
