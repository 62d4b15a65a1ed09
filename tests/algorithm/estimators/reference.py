"""Advantages and losses once more, as slow loops from the equations; no torch.

A loss is (value, its derivative with respect to every log pi(t), tokens the clip acted on).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.algorithm.estimators.scenes import MAX_TOKENS, Scene

Loss = tuple[float, np.ndarray, int]
FLOOR = 1e-6


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.sqrt(mean([(v - middle) ** 2 for v in values]))


def grouped(rewards: list[list[float]], by_std: bool) -> list[list[float]]:
    result = []
    for group in rewards:
        divisor = deviation(group) + FLOOR if by_std else 1.0
        result.append([(r - mean(group)) / divisor for r in group])
    return result


def leave_one_out(rewards: list[list[float]]) -> list[list[float]]:
    return [[r - mean(g[:i] + g[i + 1 :]) for i, r in enumerate(g)] for g in rewards]


def batch_normalized(rewards: list[list[float]], baseline: str) -> list[list[float]]:
    everything = [r for group in rewards for r in group]
    centred = [
        [r - mean(everything if baseline == "batch" else group) for r in group] for group in rewards
    ]
    divisor = deviation([c for group in centred for c in group]) + FLOOR
    return [[c / divisor for c in group] for group in centred]


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    if length <= limit - buffer:
        return 0.0
    if length <= limit:
        return (limit - buffer - length) / buffer
    return -1.0


def surrogate(ratio: float, advantage: float, low: float, high: float) -> tuple[float, float, bool]:
    """(value, derivative by log ratio, whether it is cut)."""
    clipped = min(max(ratio, 1 - low), 1 + high)
    if clipped * advantage < ratio * advantage:
        return clipped * advantage, 0.0, True
    return ratio * advantage, ratio * advantage, False


def clipped_tokens(
    scene: Scene,
    logits_TV: np.ndarray,
    low: float,
    high: float,
    divisor: Callable[[int], float],
    dual: float | None = None,
) -> Loss:
    log_prob_T = scene.score(logits_TV)
    value, slope_T, count = 0.0, np.zeros(len(log_prob_T)), 0
    for t, row in enumerate(scene.row_T):
        advantage = scene.advantage_B[row]
        ratio = math.exp(log_prob_T[t] - scene.old_log_prob_T[t])
        term, slope, is_cut = surrogate(ratio, advantage, low, high)
        if dual is not None and advantage < 0 and term < dual * advantage:
            term, slope, is_cut = dual * advantage, 0.0, True
        value -= scene.mismatch_T[t] * term / divisor(row)
        slope_T[t] = -scene.mismatch_T[t] * slope / divisor(row)
        count += is_cut
    return value, slope_T, count


def grpo(scene: Scene, logits_TV: np.ndarray) -> Loss:
    samples = len(scene.length_B)
    return clipped_tokens(
        scene, logits_TV, 0.2, 0.2, lambda row: float(samples * scene.length_B[row])
    )


def dr_grpo(scene: Scene, logits_TV: np.ndarray) -> Loss:
    divisor = float(len(scene.length_B) * MAX_TOKENS)
    return clipped_tokens(scene, logits_TV, 0.2, 0.2, lambda _: divisor)


def dapo(scene: Scene, logits_TV: np.ndarray) -> Loss:
    return clipped_tokens(scene, logits_TV, 0.2, 0.28, lambda _: float(len(scene.token_T)))


def reinforce_pp(scene: Scene, logits_TV: np.ndarray) -> Loss:
    return clipped_tokens(scene, logits_TV, 0.2, 0.2, lambda _: float(len(scene.token_T)))


def ppo(scene: Scene, logits_TV: np.ndarray) -> Loss:
    divisor = float(len(scene.token_T))
    return clipped_tokens(scene, logits_TV, 0.2, 0.2, lambda _: divisor, dual=1.5)


def gspo(scene: Scene, logits_TV: np.ndarray) -> Loss:
    log_prob_T = scene.score(logits_TV)
    samples = len(scene.length_B)
    value, slope_T, count = 0.0, np.zeros(len(log_prob_T)), 0
    for row, length in enumerate(scene.length_B):
        mine = [t for t in range(len(log_prob_T)) if scene.row_T[t] == row]
        product = math.prod(math.exp(log_prob_T[t] - scene.old_log_prob_T[t]) for t in mine)
        mismatch = math.prod(scene.mismatch_T[t] for t in mine) ** (1 / length)
        term, slope, is_cut = surrogate(product ** (1 / length), scene.advantage_B[row], 0.05, 0.06)
        value -= mismatch * term / samples
        for t in mine:
            slope_T[t] = -mismatch * slope / length / samples
        count += length * is_cut
    return value, slope_T, count


def cispo(scene: Scene, logits_TV: np.ndarray, low: float | None = None) -> Loss:
    log_prob_T = scene.score(logits_TV)
    value, slope_T, count = 0.0, np.zeros(len(log_prob_T)), 0
    for t, row in enumerate(scene.row_T):
        ratio = math.exp(log_prob_T[t] - scene.old_log_prob_T[t])
        weight = min(ratio, 1.3)
        if low is not None:
            weight = max(weight, 1 - low)
        slope = -scene.mismatch_T[t] * weight * scene.advantage_B[row] / len(log_prob_T)
        value += slope * log_prob_T[t]
        slope_T[t] = slope
        count += weight != ratio
    return value, slope_T, count


def cispo_low(scene: Scene, logits_TV: np.ndarray) -> Loss:
    return cispo(scene, logits_TV, low=0.25)


def weighted_responses(
    scene: Scene, log_prob_T: np.ndarray, from_T: np.ndarray, mismatch_T: np.ndarray, divisor: int
) -> Loss:
    value, slope_T, count = 0.0, np.zeros(len(log_prob_T)), 0
    for row, length in enumerate(scene.length_B):
        mine = [t for t in range(len(log_prob_T)) if scene.row_T[t] == row]
        weight = math.prod(math.exp(log_prob_T[t] - from_T[t]) for t in mine)
        for t in mine:
            slope_T[t] = -min(weight, 1.5) * scene.advantage_B[row] * mismatch_T[t] / divisor
            value += slope_T[t] * log_prob_T[t]
        count += length * (weight > 1.5)
    return value, slope_T, count


def reweighted(scene: Scene, logits_TV: np.ndarray) -> Loss:
    log_prob_T = scene.score(logits_TV)
    ones_T = np.ones_like(log_prob_T)
    return weighted_responses(
        scene, log_prob_T, scene.behaviour_log_prob_T, ones_T, len(log_prob_T)
    )


def rloo(scene: Scene, logits_TV: np.ndarray) -> Loss:
    log_prob_T = scene.score(logits_TV)
    return weighted_responses(
        scene, log_prob_T, scene.old_log_prob_T, scene.mismatch_T, len(scene.length_B)
    )


def logit_gradient(scene: Scene, slope_T: np.ndarray) -> np.ndarray:
    """d log p(token) / d logits = onehot(token) - softmax."""
    gradient_TV = np.zeros_like(scene.logits_TV)
    for t, logits_V in enumerate(scene.logits_TV):
        weights_V = np.exp(logits_V) / np.exp(logits_V).sum()
        for v in range(len(logits_V)):
            gradient_TV[t, v] = slope_T[t] * ((v == scene.token_T[t]) - weights_V[v])
    return gradient_TV


def central_differences(
    objective: Callable[[np.ndarray], float], logits_TV: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    gradient_TV = np.zeros_like(logits_TV)
    for index in np.ndindex(*logits_TV.shape):
        moved = logits_TV.copy()
        moved[index] += step
        above = objective(moved)
        moved[index] -= 2 * step
        gradient_TV[index] = (above - objective(moved)) / (2 * step)
    return gradient_TV
