"""The rivals' losses and gradients once more, as slow fp64 loops from the equations; no torch.

Each function adds terms to a `Sum`: a value, and its derivative with respect to log pi of a token.
Stop-gradients are then only a matter of which derivative is given.
"""

import math
from collections.abc import Sequence

import numpy as np

from coop_rl.types import Demonstration, ScoredGroup
from tests.algorithm.methods.scenes import MAX_TOKENS, MISMATCH_CAP, VOCABULARY, Scene

RATIO_CAP, CLIP, STD_FLOOR, GAMMA = 5.0, 0.2, 1e-6, 0.1
Groups = Sequence[ScoredGroup]
Shown = Sequence[Demonstration]


def distribution(logits_V: np.ndarray) -> list[float]:
    total = math.fsum(math.exp(z) for z in logits_V)
    return [math.exp(z) / total for z in logits_V]


class Sum:
    """A loss and its gradient with respect to every logit of a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.loss = 0.0
        self.gradient_SV = np.zeros_like(scene.logits_SV)

    def log_prob(self, token: int) -> float:
        slot, word = divmod(token, VOCABULARY)
        return math.log(distribution(self.scene.logits_SV[slot])[word])

    def old_log_prob(self, token: int) -> float:
        slot, word = divmod(token, VOCABULARY)
        return math.log(distribution(self.scene.old_SV[slot])[word])

    def entropy(self, token: int) -> float:
        weights = distribution(self.scene.logits_SV[token // VOCABULARY])
        return -math.fsum(p * math.log(p) for p in weights)

    def mean_entropy(self, ids: Sequence[int]) -> float:
        return math.fsum(self.entropy(i) for i in ids) / len(ids)

    def add(self, token: int, value: float, slope: float) -> None:
        """`slope`: d value / d log pi(token); d log pi / d logits = onehot - pi."""
        slot, word = divmod(token, VOCABULARY)
        self.loss += value
        for v, p in enumerate(distribution(self.scene.logits_SV[slot])):
            self.gradient_SV[slot, v] += slope * ((v == word) - p)

    def add_entropy(self, ids: Sequence[int], weight: float) -> None:
        """weight * mean H; d H / d logit_v = - p_v (log p_v + H)."""
        for token in ids:
            slot, entropy = token // VOCABULARY, self.entropy(token)
            self.loss += weight * entropy / len(ids)
            for v, p in enumerate(distribution(self.scene.logits_SV[slot])):
                slope = -p * (math.log(p) + entropy)
                self.gradient_SV[slot, v] += weight * slope / len(ids)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    return math.sqrt(mean([(value - mean(values)) ** 2 for value in values]))


def rewards_of(group: ScoredGroup) -> list[float]:
    return [reward.value for reward in group.rewards]


def tokens_of_rollouts(groups: Groups) -> list[int]:
    return [i for group in groups for rollout in group.rollouts for i in rollout.token_ids]


def tokens_of(shown: Shown) -> list[int]:
    return [i for d in shown for i in d.response_ids]


def mismatch(total: Sum, token: int, behaviour: float) -> float:
    return min(math.exp(total.old_log_prob(token) - behaviour), MISMATCH_CAP)


def reweighted(total: Sum, groups: Groups, weight: float = 1.0) -> None:
    """- 1/T sum_i sg[ min( prod_t pi / pi_b, cap ) ] A_i sum_t log pi, A in group deviations."""
    num_tokens = len(tokens_of_rollouts(groups))
    for group in groups:
        rewards = rewards_of(group)
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            advantage = (reward - mean(rewards)) / (deviation(rewards) + STD_FLOOR)
            ratio = 1.0
            for token, behaviour in zip(
                rollout.token_ids, rollout.behaviour_log_probs, strict=True
            ):
                ratio *= math.exp(total.log_prob(token) - behaviour)
            slope = -weight * min(ratio, RATIO_CAP) * advantage / num_tokens
            for token in rollout.token_ids:
                total.add(token, slope * total.log_prob(token), slope)


def dr_grpo(total: Sum, groups: Groups) -> None:
    """- 1/(N max) sum m min( r A, clip(r) A ), A = R - mean."""
    num_rows = sum(len(group.rollouts) for group in groups)
    for group in groups:
        rewards = rewards_of(group)
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            advantage = reward - mean(rewards)
            for token, behaviour in zip(
                rollout.token_ids, rollout.behaviour_log_probs, strict=True
            ):
                ratio = math.exp(total.log_prob(token) - total.old_log_prob(token))
                clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
                factor = -mismatch(total, token, behaviour) / (num_rows * MAX_TOKENS)
                is_cut = clipped * advantage < ratio * advantage
                value = factor * advantage * (clipped if is_cut else ratio)
                total.add(token, value, 0.0 if is_cut else value)


def nll(total: Sum, shown: Shown, weight: float, of_row: dict[str, float] | None = None) -> None:
    """- weight/T sum_t c log pi."""
    num_tokens = len(tokens_of(shown))
    for d in shown:
        slope = -weight * (of_row[d.id] if of_row else 1.0) / num_tokens
        for token in d.response_ids:
            total.add(token, slope * total.log_prob(token), slope)


def phi(total: Sum, shown: Shown, weight: float) -> None:
    """- weight/T sum_t sg[ p (1 - p) ] log p."""
    ids = tokens_of(shown)
    for token in ids:
        p = math.exp(total.log_prob(token))
        slope = -weight * p * (1 - p) / len(ids)
        total.add(token, slope * math.log(p), slope)


def shaped(total: Sum, token: int, factor: float) -> None:
    """factor * f(p), f = p / (p + gamma); d f / d log p = p gamma / (p + gamma)^2."""
    p = math.exp(total.log_prob(token))
    total.add(token, factor * p / (p + GAMMA), factor * p * GAMMA / (p + GAMMA) ** 2)


def on_policy(total: Sum, group: ScoredGroup, baseline: float, num_rows: int) -> None:
    """- 1/(N max) sum m r (R - baseline), not clipped."""
    for rollout, reward in zip(group.rollouts, rewards_of(group), strict=True):
        for token, behaviour in zip(rollout.token_ids, rollout.behaviour_log_probs, strict=True):
            ratio = math.exp(total.log_prob(token) - total.old_log_prob(token))
            value = mismatch(total, token, behaviour) * ratio * (reward - baseline)
            value /= -num_rows * MAX_TOKENS
            total.add(token, value, value)


def luffy(total: Sum, groups: Groups, shown: Shown, alpha: float) -> None:
    """One normaliser for rollouts and experts; the baseline counts the expert's R = 1."""
    num_rollouts = sum(len(group.rollouts) for group in groups)
    num_rows = num_rollouts + len(shown)
    for group in groups:
        experts = [d for d in shown if d.id == group.prompt.id]
        baseline = mean(rewards_of(group) + [1.0] * len(experts))
        on_policy(total, group, baseline, num_rows)
        for token in tokens_of(experts):
            shaped(total, token, -(1.0 - baseline) / (num_rows * MAX_TOKENS))
    total.add_entropy(tokens_of_rollouts(groups), -alpha * num_rollouts / num_rows)
    total.add_entropy(tokens_of(shown), -alpha * len(shown) / num_rows)


def relift_rl(total: Sum, groups: Groups, alpha: float) -> None:
    num_rows = sum(len(group.rollouts) for group in groups)
    for group in groups:
        on_policy(total, group, mean(rewards_of(group)), num_rows)
    total.add_entropy(tokens_of_rollouts(groups), -alpha)


def relift_sft(total: Sum, shown: Shown, alpha: float) -> None:
    nll(total, shown, 1.0)
    total.add_entropy(tokens_of(shown), -alpha)


def srft(total: Sum, groups: Groups, shown: Shown, sft_weight: float, right: float) -> None:
    """0.5 sg[e^-H] NLL - mean_t A_e f - 0.1 sg[e^H] mean_t log pi (right) + mean_t log pi."""
    ids, rolled = tokens_of(shown), tokens_of_rollouts(groups)
    nll(total, shown, sft_weight * math.exp(-total.mean_entropy(ids)))
    right_weight = right * math.exp(total.mean_entropy(rolled))
    for group in groups:
        for d in shown:
            if d.id == group.prompt.id:
                joined = [*rewards_of(group), 1.0]
                advantage = (1.0 - mean(joined)) / (deviation(joined) + STD_FLOOR)
                for token in d.response_ids:
                    shaped(total, token, -advantage / len(ids))
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
            weight = right_weight if reward.is_correct else -1.0
            for token, behaviour in zip(
                rollout.token_ids, rollout.behaviour_log_probs, strict=True
            ):
                slope = -weight * mismatch(total, token, behaviour) / len(rolled)
                total.add(token, slope * total.log_prob(token), slope)
