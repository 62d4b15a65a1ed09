"""Sums of terms over tokens, with their gradient by every logit: plain fp64 loops, no torch."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from coop_rl.types import Demonstration, ScoredGroup
from tests.algorithm.methods.scenes import MISMATCH_CAP, Table


class Token:
    """One token of a response under pi and pi_old."""

    def __init__(self, table: Table, context: int, token: int, behaviour: float = 0.0) -> None:
        self.context, self.token = context, token
        self.probability_V = softmax(table.logits_CV[context])
        self.p = self.probability_V[token]
        self.old = softmax(table.old_logits_CV[context])[token]
        self.mismatch = min(self.old / math.exp(behaviour), MISMATCH_CAP)

    @property
    def ratio(self) -> float:
        return self.p / self.old

    @property
    def entropy(self) -> float:
        return -sum(p * math.log(p) for p in self.probability_V)


class Total:
    """A loss and its gradient, term by term."""

    def __init__(self, table: Table) -> None:
        self.loss = 0.0
        self.gradient_CV = np.zeros_like(table.logits_CV)

    def add(self, token: Token, value: float, slope: float) -> None:
        """Add a term with d value / d log pi(t) = slope."""
        self.loss += value
        for v, p in enumerate(token.probability_V):
            self.gradient_CV[token.context, v] += slope * ((v == token.token) - p)

    def add_log_prob(self, token: Token, weight: float) -> None:
        self.add(token, weight * math.log(token.p), weight)

    def add_ratio(self, token: Token, weight: float) -> None:
        self.add(token, weight * token.ratio, weight * token.ratio)

    def add_shaped(self, token: Token, weight: float) -> None:
        """f(p) = p / (p + 0.1); d f / d log p = 0.1 p / (p + 0.1)^2."""
        p = token.p
        self.add(token, weight * p / (p + 0.1), weight * 0.1 * p / (p + 0.1) ** 2)

    def add_mean_entropy(self, tokens: Sequence[Token], weight: float) -> None:
        """d H / d z_v = - p_v (log p_v + H)."""
        for token in tokens:
            self.loss += weight * token.entropy / len(tokens)
            for v, p in enumerate(token.probability_V):
                slope = -p * (math.log(p) + token.entropy)
                self.gradient_CV[token.context, v] += weight * slope / len(tokens)


def softmax(logits_V: np.ndarray) -> list[float]:
    exponentials = [math.exp(z) for z in logits_V]
    return [e / math.fsum(exponentials) for e in exponentials]


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def deviation(values: Sequence[float]) -> float:
    return math.sqrt(mean((v - mean(values)) ** 2 for v in values))


def rollouts(table: Table, group: ScoredGroup) -> list[list[Token]]:
    """The tokens of each response."""
    return [
        [
            Token(table, *pair)
            for pair in zip(
                table.contexts(group.prompt.context_ids, rollout.token_ids),
                rollout.token_ids,
                rollout.behaviour_log_probs,
                strict=True,
            )
        ]
        for rollout in group.rollouts
    ]


def trace(table: Table, expert: Demonstration) -> list[Token]:
    """The tokens of a demonstration."""
    contexts = table.contexts(expert.prompt_ids, expert.response_ids)
    return [Token(table, *pair) for pair in zip(contexts, expert.response_ids, strict=True)]
