"""All metrics: one table with units and meaning, and their computation from a step's record.

`observer` calls `step_metrics`; whoever adds a metric adds its row here, which a test checks.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coop_rl.algorithm.packing import useful_share
from coop_rl.algorithm.roles import StepRecord
from coop_rl.types import (
    CooperativeGain,
    GuidanceUpdate,
    Reward,
    ScoredGroup,
    SkipReason,
    StepResult,
)

Metrics = dict[str, float | None]
"""Metric name -> value; None (JSON null) where the quantity was not measured or does not exist."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table."""

    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "step": Metric(
        "", "meta-step k, from 0; in rows of eval/: steps trained before the evaluation"
    ),
    "version": Metric(
        "", "theta updates before the step; its rollouts may be policy/lag updates older"
    ),
    "time/step_s": Metric("s", "from the last row to this one, evaluations left out"),
    "time/<stage>_s": Metric("s", "spent in a stage; save: the checkpoint after the previous step"),
    "tokens/generated": Metric("tokens", "response tokens sampled for training"),
    "tokens/generated_shadow": Metric("tokens", "response tokens sampled from the shadow"),
    "tokens/trained_rl": Metric("tokens", "response tokens in the RL loss of joint"),
    "tokens/trained_sft": Metric("tokens", "response tokens in the SFT loss of joint"),
    "tokens/trained_shadow": Metric("tokens", "response tokens in the RL loss of the shadow"),
    "tokens/useful": Metric("share", "places of joint's packed batches that hold a token"),
    "reward/mean": Metric("reward", "mean over the step's responses"),
    "reward/std": Metric("reward", "standard deviation over the step's responses"),
    "reward/accuracy": Metric("share", "responses with the right answer"),
    "reward/timeouts": Metric(
        "responses", "verifier killed at its time limit; they count as reward 0"
    ),
    "reward/crashed": Metric("responses", "verifier failed; they count as reward 0"),
    "reward/format": Metric("share", "responses in the form the answer was asked for in"),
    "reward/flipped": Metric("share", "responses whose reward noise turned around"),
    "reward/part/<name>": Metric("", "mean of a term of the reward, before its weight"),
    "groups/all_right": Metric("share", "prompts whose responses are all right: no RL gradient"),
    "groups/all_wrong": Metric("share", "prompts whose responses are all wrong: no RL gradient"),
    "groups/dropped": Metric("groups", "sampled in vain and replaced (dynamic sampling)"),
    "response/length_mean": Metric("tokens", "mean length of a response"),
    "response/truncated": Metric("share", "responses that hit rollout.max_tokens"),
    "policy/entropy": Metric("nats", "mean entropy of joint at the sampled tokens"),
    "policy/mismatch_kl": Metric("nats", "mean of log pi_b - log pi at the sampled tokens"),
    "policy/kl_ref": Metric("nats", "mean KL estimate of a token to the start; null without a KL"),
    "policy/clip_fraction": Metric("share", "tokens whose ratio the estimator's clip cut off"),
    "policy/lag": Metric("updates", "most theta updates a rollout's oldest token is behind"),
    "policy/lag_mean": Metric("updates", "mean over rollouts of their oldest token's lag"),
    "policy/mixed": Metric("share", "rollouts whose weights changed in between"),
    "loss/rl": Metric("reward", "RL loss of joint (surrogate)"),
    "loss/sft": Metric("nats", "mean negative log-likelihood of demonstration tokens under joint"),
    "loss/shadow_rl": Metric("reward", "RL loss of the shadow (surrogate)"),
    "grad/norm": Metric("", "norm of joint's fused theta-gradient before clipping"),
    "grad/rl_norm": Metric("", "norm of its unweighted RL part; null when not measured"),
    "grad/sft_norm": Metric("", "norm of its unweighted SFT part; null when not measured"),
    "grad/cosine": Metric("", "cosine of the two parts; null when not measured"),
    "grad/shadow_norm": Metric("", "norm of the shadow's theta-gradient before clipping"),
    "grad/skipped": Metric("0 or 1", "1: a non-finite gradient made a branch skip its update"),
    "gain/value": Metric(
        "reward", "cooperative gain; null where the effective sample size is too low"
    ),
    "gain/stderr": Metric("reward", "its standard error over prompts"),
    "gain/reward_gap": Metric("reward", "the part of it that is reward"),
    "gain/kl_gap": Metric("nats", "difference of the branches' KL to the start; null without one"),
    "gain/fresh": Metric("0 or 1", "1: from the shadow's own rollouts; 0: reweighted"),
    "gain/audit": Metric("reward", "gain on held-out prompts, fresh rollouts of both branches"),
    "gain/audit_stderr": Metric("reward", "its standard error over prompts"),
    "gain/ess": Metric("share", "effective sample size of the shadow's sequence weights"),
    "gain/ess_joint": Metric("share", "effective sample size of joint's sequence weights"),
    "gain/capped_share": Metric("share", "shadow's sequence weights above the cap"),
    "guidance/mix": Metric("share", "lambda, the share of RL in theta's step"),
    "guidance/adapter_norm": Metric("", "norm of w after the update"),
    "guidance/update_norm": Metric("", "norm of the change of w"),
    "guidance/bracket_norm": Metric("", "norm of g_w^RL - g-hat_w^RL"),
    "guidance/bracket_cosine": Metric(
        "", "cosine of the bracket with g_w^SFT; null where one is zero"
    ),
    "guidance/grad_sft_norm": Metric("", "norm of g_w^SFT"),
    "guidance/skipped": Metric("0 or 1", "1: w was not updated"),
    "guidance/skipped_<reason>": Metric("0 or 1", "1: it was not, for that reason"),
    "guidance/weight/<source>": Metric("share", "weight of a source of demonstrations"),
    "guidance/product/<component>": Metric(
        "", "d J_RL / d weight of a component of the update before (look-ahead)"
    ),
    "shadow/kl": Metric("nats", "mean over responses of log pi_joint - log pi_shadow"),
    "sync/bytes": Metric("bytes", "sent to the rollout actors"),
    "sync/seconds": Metric("s", "of it, as the sender measured"),
    "sync/extra_bytes": Metric("bytes", "memory a learner rank took for it at the peak"),
    "sync/canary_mean": Metric(
        "nats", "mean |log pi_engine - log pi_learner| of the worst engine; when checked"
    ),
    "sync/canary_max": Metric("nats", "largest such difference of a token"),
    "ledger/tokens_generated": Metric("tokens", "sampled for training so far, by both branches"),
    "ledger/tokens_rl": Metric("tokens", "response tokens in joint's RL loss so far"),
    "ledger/tokens_sft": Metric("tokens", "response tokens in joint's SFT loss so far"),
    "ledger/tokens_shadow": Metric("tokens", "response tokens in the shadow's RL loss so far"),
    "ledger/updates": Metric("steps", "optimiser steps of theta so far"),
    "ledger/demonstrations": Metric("rows", "demonstrations trained on so far, repeats included"),
    "ledger/flops": Metric(
        "FLOP",
        "estimate so far: 2 N a generated or scored token, 6 N a trained one (8 N recomputed)",
    ),
    "time/device_s/<role>": Metric("s", "devices held by a role times seconds, so far"),
    "eval/demonstrations/nll": Metric(
        "nats", "mean negative log-likelihood of a token of demonstrations kept from training"
    ),
    "eval/demonstrations/token_accuracy": Metric(
        "share", "their tokens that are the policy's likeliest"
    ),
    "forgetting/nll_rise": Metric("nats", "that NLL less its lowest so far"),
    "forgetting/nll_retained": Metric(
        "share", "its best improvement over the first evaluation that is left; null: there was none"
    ),
    "forgetting/token_accuracy_lost": Metric("share", "highest token accuracy so far less this"),
    "forgetting/reward_below_best": Metric(
        "reward", "highest mean of five neighbouring steps so far less that of the last five"
    ),
    "eval/<name>/pass@1": Metric("share", "greedy accuracy on held-out items"),
    "eval/<name>/pass@<k>": Metric("share", "items solved by at least one of k samples, unbiased"),
    "eval/<name>/avg@<k>": Metric("share", "mean accuracy of k samples an item"),
    "eval/<name>/maj@<k>": Metric("share", "items whose commonest answer among k samples is right"),
    "eval/<name>/<value>_low": Metric("share", "lower end of the value's 95 % interval"),
    "eval/<name>/<value>_high": Metric("share", "upper end of the value's 95 % interval"),
    "eval/<name>/format": Metric("share", "responses in the form the answer was asked for in"),
    "eval/<name>/truncated": Metric("share", "responses that hit the token limit"),
    "eval/<name>/length_mean": Metric("tokens", "mean length of a response"),
    "eval/<name>/unscored": Metric("share", "responses whose verifier timed out or crashed"),
}


def describe(name: str) -> Metric | None:
    """Return the table's row for a metric, or None if it has none."""
    if name in METRICS:
        return METRICS[name]
    for pattern, metric in METRICS.items():
        expression = re.sub(
            r"<\w+>", "[^/]+", re.escape(pattern).replace(r"\<", "<").replace(r"\>", ">")
        )
        if "<" in pattern and re.fullmatch(expression, name):
            return metric
    return None


def step_metrics(record: StepRecord, timings: Mapping[str, float]) -> Metrics:
    """Return one step's row: everything from the record, and the stages' sums as they are."""
    steps, objective = record.batch.minibatches, record.objective
    num_rl_tokens = sum(batch.num_rl_tokens for batch in steps)
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
        **_rollout_metrics([*record.sampled.groups, *record.sampled.dropped], record.version.theta),
        **_learner_metrics(record.joint, record.shadow),
        **_gain_metrics(record.gain),
        **_guidance_metrics(record.update),
        **{f"guidance/weight/{t.source}": t.share for t in objective.terms if t.source},
        **{f"guidance/product/{c or 'sft'}": z for c, z in record.joint.lookahead},
        **timings,
    }
    return {name: finite(value) for name, value in metrics.items()}


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is no number: JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def count_tokens(groups: Sequence[ScoredGroup]) -> int:
    """Return the response tokens of groups."""
    return sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)


def _rollout_metrics(groups: Sequence[ScoredGroup], version: int) -> Metrics:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [reward for group in groups for reward in group.rewards]
    metrics: Metrics = {"tokens/generated": count_tokens(groups)}
    if not rollouts:
        return metrics
    values = np.array([reward.value for reward in rewards])
    right_P = [sum(reward.is_correct for reward in group.rewards) for group in groups]
    size_P = [len(group.rewards) for group in groups]
    return metrics | {
        "reward/mean": float(values.mean()),
        "reward/std": float(values.std()),
        "reward/accuracy": sum(right_P) / len(rewards),
        "reward/timeouts": sum(reward.status == "timeout" for reward in rewards),
        "reward/crashed": sum(reward.status == "crashed" for reward in rewards),
        "reward/format": sum(reward.has_format for reward in rewards) / len(rewards),
        "reward/flipped": sum(reward.is_flipped for reward in rewards) / len(rewards),
        **_part_means(rewards),
        "groups/all_right": sum(r == n for r, n in zip(right_P, size_P, strict=True)) / len(groups),
        "groups/all_wrong": sum(r == 0 for r in right_P) / len(groups),
        "response/length_mean": sum(len(r.token_ids) for r in rollouts) / len(rollouts),
        "response/truncated": sum(r.is_truncated for r in rollouts) / len(rollouts),
        "policy/lag": max(version - rollout.version.theta for rollout in rollouts),
        "policy/lag_mean": version - sum(r.version.theta for r in rollouts) / len(rollouts),
        "policy/mixed": sum(bool(r.version_spans) for r in rollouts) / len(rollouts),
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
        "policy/entropy": joint.entropy,
        "policy/mismatch_kl": joint.mismatch_kl,
        "policy/kl_ref": joint.kl_ref,
        "policy/clip_fraction": joint.clip_fraction,
        "loss/rl": joint.rl_loss,
        "loss/sft": joint.sft_loss,
        "loss/shadow_rl": shadow.rl_loss if shadow else None,
        "grad/norm": joint.grad_norm,
        "grad/rl_norm": joint.rl_grad_norm,
        "grad/sft_norm": joint.sft_grad_norm,
        "grad/cosine": joint.grad_cosine,
        "grad/shadow_norm": shadow.grad_norm if shadow else None,
        "grad/skipped": int(
            not (joint.is_step_applied and (shadow is None or shadow.is_step_applied))
        ),
    }


def _gain_metrics(gain: CooperativeGain | None) -> Metrics:
    if gain is None:
        return {"gain/value": None, "gain/stderr": None, "gain/ess": None, "shadow/kl": None}
    return {
        "gain/value": gain.value,
        "gain/stderr": gain.stderr,
        "gain/reward_gap": gain.reward_gap,
        "gain/kl_gap": gain.kl_gap,
        "gain/fresh": int(gain.estimator == "fresh"),
        "gain/ess": gain.ess,
        "gain/ess_joint": gain.ess_joint,
        "gain/capped_share": gain.capped_share,
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
