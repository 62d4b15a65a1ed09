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
from itertools import accumulate
from typing import TYPE_CHECKING

from coop_rl.metric_names import REWARD, VALIDATION_NLL, VALIDATION_TOKEN_ACCURACY

if TYPE_CHECKING:  # imports torch, which reports have no use for
    from coop_rl.observability.metrics import Metrics

WINDOW_STEPS = 5
"""Steps that the running mean of the reward is taken over."""


@dataclass(frozen=True, slots=True)
class Dip:
    """The deepest fall of the running mean of the reward; steps are counted from 1."""

    depth: float
    """Highest mean before it less the lowest, in units of reward; 0: the mean never fell."""
    peak_step: int
    """Last step of the window the fall starts from."""
    low_step: int
    """Last step of the lowest window."""
    recovered_step: int | None
    """Last step of the first later window that is as high as the peak; None: there is none yet."""


@dataclass(frozen=True, slots=True)
class Retention:
    """The kept demonstrations' NLL over a run's evaluations, nats a token."""

    first: float
    """At the run's first evaluation."""
    lowest: float
    lowest_step: int
    """Steps trained before the lowest was measured."""
    last: float
    """At the latest evaluation."""

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
    """Follows a run row by row."""

    def __init__(self) -> None:
        self._rewards: list[float] = []
        self._means: list[float] = []
        """The running mean at the end of every window so far."""
        self._peak = -math.inf
        self._nll: list[tuple[int, float]] = []
        self._best_accuracy = 0.0

    def add(self, row: Mapping[str, float | None]) -> "Metrics":
        """Take in a row of a step or an evaluation; returns what is lost, for the same row."""
        reward, nll = row.get(REWARD), row.get(VALIDATION_NLL)
        if reward is not None:
            return self._add_reward(reward)
        if nll is not None:
            accuracy = row.get(VALIDATION_TOKEN_ACCURACY) or 0.0
            return self._add_evaluation(int(row["step"] or 0), nll, accuracy)
        return {}

    def _add_reward(self, reward: float) -> "Metrics":
        self._rewards.append(reward)
        if len(self._rewards) < WINDOW_STEPS:
            return {}
        self._means.append(sum(self._rewards[-WINDOW_STEPS:]) / WINDOW_STEPS)
        self._peak = max(self._peak, self._means[-1])
        return {"forgetting/reward_below_best": self._peak - self._means[-1]}

    def _add_evaluation(self, step: int, nll: float, accuracy: float) -> "Metrics":
        self._nll.append((step, nll))
        self._best_accuracy = max(self._best_accuracy, accuracy)
        retention = self.retention()
        assert retention is not None, "one was just added"
        return {
            "forgetting/nll_rise": retention.rise,
            "forgetting/nll_retained": retention.retained,
            "forgetting/token_accuracy_lost": self._best_accuracy - accuracy,
        }

    def retention(self) -> Retention | None:
        """Return what became of the fit to kept demonstrations; None where none are kept."""
        if not self._nll:
            return None
        step, lowest = min(self._nll, key=lambda pair: pair[1])
        return Retention(self._nll[0][1], lowest, step, self._nll[-1][1])

    def dip(self) -> Dip | None:
        """Return the deepest fall of the reward so far; None with fewer than two windows."""
        means = self._means
        if len(means) < 2:
            return None
        best = list(accumulate(means, max))
        low = max(range(len(means)), key=lambda i: best[i] - means[i])
        peak = means.index(best[low])
        back = next((i for i in range(low, len(means)) if means[i] >= best[low]), None)
        return Dip(
            depth=best[low] - means[low],
            peak_step=peak + WINDOW_STEPS,
            low_step=low + WINDOW_STEPS,
            recovered_step=None if back is None else back + WINDOW_STEPS,
        )


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
    if dip is not None and dip.depth > 0:
        back = f"back at step {dip.recovered_step}" if dip.recovered_step else "not back yet"
        lines.append(
            f"reward dipped by {dip.depth:.3f} from step {dip.peak_step} to {dip.low_step}, {back} "
            f"(means of {WINDOW_STEPS} steps)"
        )
    elif dip is not None:
        lines.append(f"reward never dipped (means of {WINDOW_STEPS} steps)")
    return lines
