"""What RL loses of what SFT taught, over a run; `observer` feeds it, `console` prints its summary.

    rows of steps        --> running mean of the reward --> how far it dipped, and when it was back
    rows of evaluations  --> NLL and token accuracy of kept demonstrations --> best so far less now

Both are drawdowns: the distance from the best so far, the measure of forgetting of continual
learning (arXiv 1801.10112, there over tasks). They need no clock of their own: a resumed
run feeds the rows it kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from coop_rl.observability.metrics import Metrics

WINDOW = 5
"""Steps of the running mean of the reward."""
NUM_DRAWS = 400
"""Curves of noise that a dip is held against."""
NLL, TOKEN_ACCURACY = "eval/demonstrations/nll", "eval/demonstrations/token_accuracy"


@dataclass(frozen=True, slots=True)
class Dip:
    """The deepest fall of the running mean of the reward; steps are counted from 1."""

    depth: float
    """Highest before it less lowest, in units of reward; 0: it never fell."""
    peak_step: int
    """Last step of the window the fall starts from."""
    low_step: int
    """Last step of the lowest window."""
    recovered_step: int | None
    """First later step whose window is as high as the peak; None: not yet."""
    noise: float
    """What the deepest dip of a level curve with the same noise stays below, 95 times in 100."""

    @property
    def is_clear(self) -> bool:
        """Whether the dip is deeper than noise makes dips."""
        return self.depth > self.noise


def find_dip(rewards: list[float]) -> Dip | None:
    """Return the deepest dip of a reward curve; None with fewer than two windows.

    The noise of a step's mean is taken from differences of neighbouring steps, which a slow trend
    does not touch.
    """
    if len(rewards) <= WINDOW:
        return None
    mean_K = _running_mean(np.asarray(rewards))
    below_K = np.maximum.accumulate(mean_K) - mean_K
    low = int(np.argmax(below_K))
    peak = int(np.argmax(mean_K[: low + 1]))
    back = np.nonzero(mean_K[low:] >= mean_K[peak])[0]
    sigma = math.sqrt(float(np.mean(np.diff(rewards) ** 2)) / 2)
    return Dip(
        depth=float(below_K[low]),
        peak_step=peak + WINDOW,
        low_step=low + WINDOW,
        recovered_step=int(back[0]) + low + WINDOW if len(back) else None,
        noise=sigma * _dip_of_noise(len(rewards)),
    )


def _running_mean(reward_RK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of WINDOW neighbours along the last axis."""
    windows_RKW = np.lib.stride_tricks.sliding_window_view(reward_RK, WINDOW, axis=-1)
    mean_RK: NDArray[np.float64] = windows_RKW.mean(-1)
    return mean_RK


@lru_cache(maxsize=1)
def _dip_of_noise(num_steps: int) -> float:
    """Return the 95 % quantile of the deepest dip of white noise of standard deviation 1."""
    noise_RK = np.random.default_rng(0).normal(size=(NUM_DRAWS, num_steps))
    mean_RK = _running_mean(noise_RK)
    depth_R = (np.maximum.accumulate(mean_RK, axis=-1) - mean_RK).max(-1)
    return float(np.quantile(depth_R, 0.95))


@dataclass(frozen=True, slots=True)
class Retention:
    """The kept demonstrations' NLL over a run's evaluations, nats a token."""

    first: float
    lowest: float
    lowest_step: int
    """Steps trained before the lowest was measured."""
    last: float

    @property
    def rise(self) -> float:
        """What was lost of the best: last less lowest, nats."""
        return self.last - self.lowest

    @property
    def retained(self) -> float | None:
        """Share of the best improvement that is still there; None where there was none."""
        learned = self.first - self.lowest
        return (self.first - self.last) / learned if learned > 0 else None


class Forgetting:
    """Follows a run; `steps` and `evaluations` return what a row gets besides its own figures."""

    def __init__(self) -> None:
        self._rewards: list[float] = []
        self._peak = -math.inf
        self._nll: list[tuple[int, float]] = []
        self._best_accuracy = 0.0

    def go_on(self, row: Mapping[str, float | None]) -> None:
        """Take in a row an earlier part of this run wrote."""
        self.evaluation(row) if NLL in row else self.step(row)

    def step(self, row: Mapping[str, float | None]) -> Metrics:
        """Take in a step's row; returns how far the reward stands below its best."""
        reward = row.get("reward/mean")
        if reward is None:
            return {}
        self._rewards.append(reward)
        if len(self._rewards) < WINDOW:
            return {}
        mean = sum(self._rewards[-WINDOW:]) / WINDOW
        self._peak = max(self._peak, mean)
        return {"forgetting/reward_below_best": self._peak - mean}

    def evaluation(self, row: Mapping[str, float | None]) -> Metrics:
        """Take in an evaluation's row; returns what is lost of the fit to kept demonstrations."""
        nll, accuracy = row.get(NLL), row.get(TOKEN_ACCURACY)
        if nll is None:
            return {}
        self._nll.append((int(row["step"] or 0), nll))
        self._best_accuracy = max(self._best_accuracy, accuracy or 0.0)
        retention = self.retention()
        assert retention is not None, "one was just added"
        return {
            "forgetting/nll_rise": retention.rise,
            "forgetting/nll_retained": retention.retained,
            "forgetting/token_accuracy_lost": self._best_accuracy - (accuracy or 0.0),
        }

    def retention(self) -> Retention | None:
        """Return what became of the fit to kept demonstrations; None where none are kept."""
        if not self._nll:
            return None
        step, lowest = min(self._nll, key=lambda pair: pair[1])
        return Retention(self._nll[0][1], lowest, step, self._nll[-1][1])

    def dip(self) -> Dip | None:
        """Return the deepest fall of the reward so far."""
        return find_dip(self._rewards)


def describe_forgetting(forgetting: Forgetting) -> list[str]:
    """Return what a run's summary says about it; nothing where nothing was measured."""
    lines = []
    retention, dip = forgetting.retention(), forgetting.dip()
    if retention is not None:
        kept = "" if retention.retained is None else f", {retention.retained:.0%} of the gain kept"
        lines.append(
            f"demonstrations kept from training: NLL {retention.first:.4f} before, lowest "
            f"{retention.lowest:.4f} after {retention.lowest_step} steps, {retention.last:.4f} "
            f"now{kept}"
        )
    if dip is not None and dip.is_clear:
        back = f"back at step {dip.recovered_step}" if dip.recovered_step else "not back yet"
        lines.append(
            f"reward dipped by {dip.depth:.3f} from step {dip.peak_step} to {dip.low_step}, {back} "
            f"(means of {WINDOW} steps; noise alone stays below {dip.noise:.3f})"
        )
    elif dip is not None:
        lines.append(
            f"reward: no dip beyond noise (deepest {dip.depth:.3f}, noise up to {dip.noise:.3f})"
        )
    return lines
