"""Every metric: its name, unit and meaning, and the names that code reads back.

`observability` and `driver` write rows under these names; the terminal, checkpoints, the cold
start's switch and dashboards read them. Whoever adds a metric adds its row here: a test checks it.
"""

import re
from dataclasses import dataclass

EVALUATION = "eval/"
"""How the names of everything measured between steps begin."""
VALIDATION_NLL = "eval/demonstrations/nll"
VALIDATION_TOKEN_ACCURACY = "eval/demonstrations/token_accuracy"
LEDGER = "ledger/"
"""How the names of a run's running totals begin, but for those of device-seconds."""
DEVICE_SECONDS = "time/device_s/"
"""How the names of device-seconds begin; the role follows."""
RECOVERED = "recovered/"
"""How the names of counts of replaced actors begin; the role follows."""
REWARD = "reward/mean"
NUM_ROLLOUTS = "rollout/num_actors"
STEP_SECONDS = "time/step_s"


def evaluation_name(set_name: str, figure: str) -> str:
    """Return the metric of one figure of one evaluation set."""
    return f"{EVALUATION}{set_name}/{figure}"


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
        "",
        "theta updates before the step, whose rollouts may be policy/lag updates older; in rows of "
        "an evaluation beside training: before what was measured",
    ),
    STEP_SECONDS: Metric("s", "from the last row to this one, evaluations left out"),
    "time/<stage>_s": Metric("s", "spent in a stage; save: the checkpoint after the previous step"),
    "tokens/generated": Metric("tokens", "response tokens sampled for training"),
    "tokens/generated_shadow": Metric("tokens", "response tokens sampled from the shadow"),
    "tokens/generated_scaffold": Metric("tokens", "response tokens of second tries (scaffold)"),
    "tokens/trained_rl": Metric("tokens", "response tokens in the RL loss of joint"),
    "tokens/trained_sft": Metric("tokens", "response tokens in the SFT loss of joint"),
    "tokens/trained_shadow": Metric("tokens", "response tokens in the RL loss of the shadow"),
    "tokens/useful": Metric("share", "places of joint's packed batches that hold a token"),
    REWARD: Metric("reward", "mean over the step's responses that were scored"),
    "reward/std": Metric("reward", "standard deviation over them"),
    "reward/accuracy": Metric("share", "of them, those with the right answer"),
    "reward/given": Metric("reward", "mean over the responses of groups/given"),
    "reward/given_accuracy": Metric("share", "responses of groups/given with the right answer"),
    "reward/timeouts": Metric("responses", "verifier killed at its time limit; they do not train"),
    "reward/crashed": Metric("responses", "verifier failed; they do not train"),
    "reward/format": Metric("share", "responses in the form the answer was asked for in"),
    "reward/flipped": Metric("share", "responses whose reward noise turned around"),
    "reward/part/<name>": Metric("", "mean of a term of the reward, before its weight"),
    "groups/all_right": Metric("share", "prompts whose responses are all right: no RL gradient"),
    "groups/all_wrong": Metric("share", "prompts whose responses are all wrong: no RL gradient"),
    "groups/given": Metric(
        "share",
        "prompts whose responses began with a part of a demonstration; the other figures of "
        "reward/, groups/ and response/ leave them out",
    ),
    "groups/dropped": Metric("groups", "sampled in vain and replaced (dynamic sampling)"),
    "response/length_mean": Metric("tokens", "mean length of a response"),
    "response/given": Metric("tokens", "mean length of what the responses of groups/given had"),
    "response/truncated": Metric("share", "responses that hit rollout.max_tokens"),
    "policy/entropy": Metric("nats", "mean entropy of joint at the sampled tokens"),
    "policy/mismatch_kl": Metric(
        "nats",
        "mean of log pi_b - log pi at the sampled tokens; second tries (scaffold) are sampled from "
        "another policy, and count",
    ),
    "policy/kl_ref": Metric("nats", "mean KL estimate of a token to the start; null without a KL"),
    "policy/clip_fraction": Metric("share", "tokens whose ratio the estimator's clip cut off"),
    "policy/lag": Metric("updates", "most theta updates a rollout's oldest token is behind"),
    "policy/lag_mean": Metric("updates", "mean over rollouts of their oldest token's lag"),
    "policy/mixed": Metric("share", "rollouts whose weights changed in between"),
    "loss/rl": Metric(
        "reward", "RL loss of joint (surrogate); self_distil: KL to its teacher, nats"
    ),
    "loss/sft": Metric("nats", "mean negative log-likelihood of demonstration tokens under joint"),
    "loss/shadow_rl": Metric("reward", "RL loss of the shadow (surrogate)"),
    "grad/norm": Metric("", "norm of joint's fused theta-gradient before clipping"),
    "grad/rl_norm": Metric("", "norm of its unweighted RL part; null when not measured"),
    "grad/sft_norm": Metric("", "norm of its unweighted SFT part; null when not measured"),
    "grad/cosine": Metric("", "cosine of the two parts; null when not measured"),
    "grad/shadow_norm": Metric("", "norm of the shadow's theta-gradient before clipping"),
    "grad/skipped": Metric("0 or 1", "1: a non-finite gradient made a branch skip its update"),
    "lr/theta": Metric("", "learning rate of the step's updates of theta"),
    "lr/w": Metric("", "learning rate of the step's update of w"),
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
    "gain/pooled": Metric("reward", "mean of the gain over the last gain.window measurements"),
    "gain/pooled_stderr": Metric("reward", "its standard error"),
    "gain/pooled_steps": Metric("steps", "measurements in it"),
    "gain/pooled_age": Metric("steps", "mean of gain/shadow_age over them"),
    "gain/shadow_age": Metric("steps", "RL-only steps that the shadow is away from a theta"),
    "gain/amplification": Metric(
        "", "times as far from theta as the shadow, where rounding hides the difference; else 1"
    ),
    "gain/differing_weights": Metric(
        "share", "of the weights the shadow has moved, those that differ after rounding"
    ),
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
    "scaffold/tried": Metric(
        "share", "prompts tried again with w because their responses were all wrong"
    ),
    "scaffold/turned": Metric("share", "of them, those with a right second try"),
    "scaffold/accuracy": Metric("share", "second tries with the right answer"),
    "shadow/kl": Metric("nats", "mean over responses of log pi_joint - log pi_shadow"),
    "sync/bytes": Metric("bytes", "sent to the rollout actors"),
    "sync/seconds": Metric("s", "of it, as the sender measured"),
    "sync/shares_memory": Metric(
        "0 or 1", "whether they passed through memory that sender and engines share"
    ),
    "sync/canary_mean": Metric(
        "nats", "mean |log pi_engine - log pi_learner| of the worst engine; when checked"
    ),
    "sync/canary_max": Metric("nats", "largest such difference of a token"),
    NUM_ROLLOUTS: Metric(
        "actors", "that sample at the step's end; only where rollout.num_actors is a range"
    ),
    "recovered/rollouts": Metric(
        "actors", "lost rollout actors that were replaced since the row before; only where any was"
    ),
    "recovered/reward_actors": Metric("actors", "lost reward actors that were, likewise"),
    "recovered/poisoned_prompts": Metric(
        "prompts", "set aside since the row before: they ended every engine they were sampled on"
    ),
    "ledger/tokens_generated": Metric(
        "tokens", "sampled for training so far, shadow and scaffold included"
    ),
    "ledger/tokens_rl": Metric("tokens", "response tokens in joint's RL loss so far"),
    "ledger/tokens_sft": Metric("tokens", "response tokens in joint's SFT loss so far"),
    "ledger/tokens_shadow": Metric("tokens", "response tokens in the shadow's RL loss so far"),
    "ledger/updates": Metric("steps", "optimiser steps of theta so far"),
    "ledger/demonstrations": Metric("rows", "demonstrations trained on so far, repeats included"),
    "ledger/flops": Metric(
        "FLOP",
        "estimate so far: 2 N a generated or scored token, 6 N a trained one (8 N recomputed)",
    ),
    "perf/mfu": Metric(
        "share",
        "of their devices' peak that both branches' learners reached while they trained; only on "
        "GPUs whose peak is known",
    ),
    "perf/tokens_per_gpu_s": Metric(
        "tokens/s", "response tokens sampled for a step, over its seconds and all GPUs of the run"
    ),
    "perf/rollout_share": Metric("share", "of time/step_s that the loop waited for rollouts"),
    "perf/train_share": Metric("share", "of it that the loop waited for learners and w's update"),
    "perf/sync_share": Metric("share", "of it that weights were sent and engines put to sleep"),
    "perf/idle_share": Metric(
        "share", "what is left of it: packing, checkpoints, the driver's own work"
    ),
    "recovered/restarts": Metric(
        "", "losses that the run went on after so far; only where there was one"
    ),
    "recovered/repeated_steps": Metric("steps", "trained again after them"),
    "time/device_s/<role>": Metric("s", "devices held by a role times seconds, so far"),
    VALIDATION_NLL: Metric(
        "nats", "mean negative log-likelihood of a token of demonstrations kept from training"
    ),
    VALIDATION_TOKEN_ACCURACY: Metric("share", "their tokens that are the policy's likeliest"),
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
        expression = re.sub(r"<\w+>", "[^/]+", re.escape(pattern))
        if "<" in pattern and re.fullmatch(expression, name):
            return metric
    return None
