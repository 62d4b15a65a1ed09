"""How well the logged G foretells the difference from a separate RL run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coop_rl.evaluation.estimators import Estimate
from coop_rl.evaluation.seeds import correlation
from coop_rl.report.stored_run import numbers
from coop_rl.study.grid import Grid
from coop_rl.study.mean import Mean, mean_of
from coop_rl.study.runs import ByArm, StudyRun, at_end, last_reward, runs_of

POOLED_GAIN = "gain/pooled"


@dataclass(frozen=True, slots=True)
class GainFinding:
    """The logged G of an arm against the difference from a separate RL run of the same seed."""

    arm: str
    reference: str
    num_seeds: int
    gain: Mean
    """gain/pooled at the end."""
    reward: Mean
    """The arm's training reward over the last steps, less the RL run's."""
    primary: Mean | None
    """The same of the primary figure."""
    excess: Mean
    """G less the difference in training reward: how far it is off."""
    num_same_sign: int
    """Seeds in which G and the difference in training reward have one sign."""
    correlation: Estimate | None
    """Of G and the difference in training reward, over seeds."""


def gain_findings(grid: Grid, set_name: str, by_arm: ByArm) -> Iterator[GainFinding]:
    """Yield every contrast with an RL run whose arm logs a gain, then all of them together."""
    points: list[tuple[float, float, float | None]] = []
    for contrast in grid.contrasts:
        own = [
            point
            for run, rl in runs_of(contrast, by_arm)
            if (point := _foretold(run, rl, set_name, grid.primary))
        ]
        if own:
            points += own
            yield _gain(contrast.arm, contrast.reference, own)
    if len(points) > 1:
        yield _gain("all", "", points)


def _foretold(
    run: StudyRun, rl: StudyRun, set_name: str, primary: str
) -> tuple[float, float, float | None] | None:
    """Return G, and the differences in training reward and in the primary figure."""
    gains = numbers(run.steps, POOLED_GAIN)
    if rl.method != "rl" or not gains:
        return None
    ends = [at_end(one, set_name, primary) for one in (run, rl)]
    primary_difference = None if ends[0] is None or ends[1] is None else ends[0] - ends[1]
    rewards = [last_reward(one) for one in (run, rl)]
    if rewards[0] is None or rewards[1] is None:
        return None
    return gains[-1], rewards[0] - rewards[1], primary_difference


def _gain(
    arm: str, reference: str, points: Sequence[tuple[float, float, float | None]]
) -> GainFinding:
    gains, rewards = [p[0] for p in points], [p[1] for p in points]
    primary = [p[2] for p in points if p[2] is not None]
    return GainFinding(
        arm,
        reference,
        len(points),
        mean_of(gains),
        mean_of(rewards),
        mean_of(primary) if primary else None,
        mean_of([gain - reward for gain, reward in zip(gains, rewards, strict=True)]),
        sum((gain > 0) == (reward > 0) for gain, reward in zip(gains, rewards, strict=True)),
        correlation(gains, rewards),
    )
