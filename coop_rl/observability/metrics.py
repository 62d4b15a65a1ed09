"""From a step's record to its row of metrics; `observer` calls `step_metrics`.

What each name means stands in `coop_rl.metric_names`.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from coop_rl.algorithm.packing import useful_share
from coop_rl.algorithm.roles import StepRecord
from coop_rl.algorithm.scaffold import has_right
from coop_rl.algorithm.schedules import rate_at, theta_rate
from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_adapter
from coop_rl.metric_names import REWARD
from coop_rl.types import (
    CooperativeGain,
    GuidanceUpdate,
    PooledGain,
    Reward,
    ScoredGroup,
    SkipReason,
    StepResult,
)

Metrics = dict[str, float | None]
"""Metric name -> value; None (JSON null) where the quantity was not measured or does not exist."""


def step_metrics(record: StepRecord, timings: Mapping[str, float]) -> Metrics:
    """Return one step's row: everything from the record, and the stages' sums as they are."""
    steps, objective = record.batch.minibatches, record.objective
    num_rl_tokens = sum(batch.num_trained_tokens for batch in steps)
    metrics: dict[str, float | None] = {
        "step": record.step,
        "version": record.version.theta,
        "guidance/mix": objective.rl_weight / (objective.rl_weight + objective.sft_weight),
        "tokens/generated_shadow": count_tokens(record.fresh),
        "tokens/trained_rl": num_rl_tokens,
        "tokens/trained_sft": sum(batch.num_sft_tokens for batch in steps),
        "tokens/trained_shadow": num_rl_tokens if record.shadow else 0,
        "tokens/useful": useful_share(steps),
        "groups/dropped": len(record.sampled.dropped),
        **_scaffold_metrics(record),
        **_rollout_metrics([*record.sampled.groups, *record.sampled.dropped], record.version.theta),
        **_learner_metrics(record.joint, record.shadow),
        **_gain_metrics(record.gain, record.pooled),
        **_guidance_metrics(record.update),
        **{f"guidance/weight/{t.source}": t.share for t in objective.terms if t.source},
        **{f"guidance/product/{c or 'sft'}": z for c, z in record.joint.lookahead.components},
        **timings,
    }
    return {name: finite(value) for name, value in metrics.items()}


def learning_rates(config: RunConfig, record: StepRecord) -> Metrics:
    """Return the rates of the step's updates: of theta, and of w where there is one."""
    step, num_steps = record.step, config.run.num_steps
    rates: Metrics = {"lr/theta": theta_rate(config.learner, record.objective, step, num_steps)}
    if record.update is not None and has_adapter(config):
        rates["lr/w"] = rate_at(config.adapter, step, num_steps)
    return rates


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is no number: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def count_tokens(groups: Sequence[ScoredGroup]) -> int:
    """Return the response tokens of groups."""
    return sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)


def _rollout_metrics(sampled: Sequence[ScoredGroup], version: int) -> Metrics:
    """Return figures of the groups that had to find the whole response, and of the others apart."""
    groups = [group for group in sampled if not group.prompt.given_ids]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [reward for group in groups for reward in group.rewards]
    metrics: Metrics = {"tokens/generated": count_tokens(sampled), **_given_metrics(sampled)}
    if not rollouts:
        return metrics
    scored = [reward for reward in rewards if reward.status == "scored"]
    values = np.array([reward.value for reward in scored]) if scored else np.array([math.nan])
    right_P = [sum(reward.is_correct for reward in group.rewards) for group in groups]
    size_P = [len(group.rewards) for group in groups]
    return metrics | {
        REWARD: float(values.mean()),
        "reward/std": float(values.std()),
        "reward/accuracy": sum(right_P) / len(scored) if scored else math.nan,
        "reward/timeouts": sum(reward.status == "timeout" for reward in rewards),
        "reward/crashed": sum(reward.status == "crashed" for reward in rewards),
        "reward/format": sum(reward.has_format for reward in rewards) / len(rewards),
        "reward/flipped": sum(reward.is_flipped for reward in rewards) / len(rewards),
        **_part_means(scored),
        "groups/all_right": sum(r == n for r, n in zip(right_P, size_P, strict=True)) / len(groups),
        "groups/all_wrong": sum(r == 0 for r in right_P) / len(groups),
        "response/length_mean": sum(len(r.token_ids) for r in rollouts) / len(rollouts),
        "response/truncated": sum(r.is_truncated for r in rollouts) / len(rollouts),
        "policy/lag": max(version - rollout.version.theta for rollout in rollouts),
        "policy/lag_mean": version - sum(r.version.theta for r in rollouts) / len(rollouts),
        "policy/mixed": sum(bool(r.version_spans) for r in rollouts) / len(rollouts),
    }


def _given_metrics(sampled: Sequence[ScoredGroup]) -> Metrics:
    """Return figures of the groups whose responses began with a part of a demonstration, if any."""
    groups = [group for group in sampled if group.prompt.given_ids]
    rewards = [reward for group in groups for reward in group.rewards]
    if not rewards:
        return {}
    return {
        "groups/given": len(groups) / len(sampled),
        "reward/given": sum(reward.value for reward in rewards) / len(rewards),
        "reward/given_accuracy": sum(reward.is_correct for reward in rewards) / len(rewards),
        "response/given": sum(len(group.prompt.given_ids) for group in groups) / len(groups),
    }


def _scaffold_metrics(record: StepRecord) -> Metrics:
    """Return how the second tries fared, where there were any."""
    tried = record.second.groups
    if not tried:
        return {}
    rights = [reward.is_correct for group in tried for reward in group.rewards]
    return {
        "tokens/generated_scaffold": count_tokens(tried),
        "scaffold/tried": len(tried) / len(record.sampled.groups),
        "scaffold/turned": sum(has_right(group) for group in tried) / len(tried),
        "scaffold/accuracy": sum(rights) / len(rights),
    }


def _part_means(rewards: Sequence[Reward]) -> Metrics:
    """Return the mean of each term over the responses that were scored."""
    values: dict[str, list[float]] = {}
    for reward in rewards:
        for name, value in reward.parts:
            values.setdefault(name, []).append(value)
    return {f"reward/part/{name}": sum(v) / len(v) for name, v in values.items()}


def _learner_metrics(joint: StepResult, shadow: StepResult | None) -> Metrics:
    return {
        "policy/entropy": joint.means.entropy,
        "policy/mismatch_kl": joint.means.mismatch_kl,
        "policy/kl_ref": joint.means.kl_ref,
        "policy/clip_fraction": joint.means.clip_fraction,
        "loss/rl": joint.means.rl_loss,
        "loss/sft": joint.means.sft_loss,
        "loss/shadow_rl": shadow.means.rl_loss if shadow else None,
        "grad/norm": joint.updates.grad_norm,
        "grad/rl_norm": joint.parts.rl_norm,
        "grad/sft_norm": joint.parts.sft_norm,
        "grad/cosine": joint.parts.cosine,
        "grad/shadow_norm": shadow.updates.grad_norm if shadow else None,
        "grad/skipped": int(
            not (joint.updates.is_applied and (shadow is None or shadow.updates.is_applied))
        ),
    }


def _gain_metrics(gain: CooperativeGain | None, pooled: PooledGain | None) -> Metrics:
    metrics: Metrics = {}
    if pooled is not None:
        metrics = {
            "gain/pooled": pooled.value,
            "gain/pooled_stderr": pooled.stderr,
            "gain/pooled_steps": pooled.num_steps,
            "gain/pooled_age": pooled.shadow_age,
        }
    if gain is None:
        nothing = ("gain/value", "gain/stderr", "gain/ess", "shadow/kl")
        return metrics | dict.fromkeys(nothing)
    return metrics | {
        "gain/value": gain.value,
        "gain/stderr": gain.stderr,
        "gain/reward_gap": gain.reward_gap,
        "gain/kl_gap": gain.kl_gap,
        "gain/fresh": int(gain.estimator == "fresh"),
        "gain/ess": gain.ess,
        "gain/ess_joint": gain.ess_joint,
        "gain/capped_share": gain.capped_share,
        "gain/shadow_age": gain.shadow_age,
        "gain/amplification": gain.resolution.amplification,
        "gain/differing_weights": gain.resolution.differing,
        "shadow/kl": gain.shadow_kl,
    }


def _guidance_metrics(update: GuidanceUpdate | None) -> Metrics:
    if update is None:
        return {}
    return {
        "guidance/adapter_norm": update.adapter_norm,
        "guidance/update_norm": update.update_norm,
        "guidance/bracket_norm": update.bracket_norm,
        "guidance/bracket_cosine": update.bracket_cosine,
        "guidance/grad_sft_norm": update.sft_grad_norm,
        "guidance/skipped": int(update.skipped is not SkipReason.NONE),
        **({f"guidance/skipped_{update.skipped}": 1} if update.skipped else {}),
    }
