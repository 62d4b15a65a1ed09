"""Draws docs/learned-sources.svg from the raw figures of a study: `make docs`.

That of configs/study/mixed-sources.yaml, in docs/studies/mixed-sources; drawn are the seeds that
every arm has finished. The drawing follows the reader's light or dark theme.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from coop_rl.metric_names import REWARD
from coop_rl.report.stored_run import numbers
from coop_rl.study.archive import read_archive
from coop_rl.study.grid import read_grid
from coop_rl.study.runs import at_end

FOLDER = Path(__file__).parent
STUDY = FOLDER / "studies/mixed-sources"
GRID = FOLDER.parent / "configs/study/mixed-sources.yaml"
CARELESS = "guidance/weight/careless"
WIDTH, HEIGHT = 860, 330
TOP, BOTTOM, PANEL = 62, 280, 330
LEFTS = (58, 478)
NUM_STEPS, SMOOTH = 40, 5
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; } .axis { stroke: #8c959f; }
.title { font-weight: 600; font-size: 14px; } .dim { fill: #59636e; font-size: 12px; }
.learned { stroke: #0b66c3; } .fixed { stroke: #b35900; } .placebo { stroke: #6e7781; }
.t-learned { fill: #0b66c3; } .t-fixed { fill: #b35900; } .t-placebo { fill: #59636e; }
.one { fill: none; stroke-width: 1; opacity: .35; } .mean { fill: none; stroke-width: 3; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .dim { fill: #9da7b1; } .axis { stroke: #656d76; }
  .learned { stroke: #6cb6ff; } .fixed { stroke: #f0a04b; } .placebo { stroke: #9da7b1; }
  .t-learned { fill: #6cb6ff; } .t-fixed { fill: #f0a04b; } .t-placebo { fill: #9da7b1; }
}"""

Series = Sequence[float]


class Panel:
    """One plot: steps from left to right, values between two bounds."""

    def __init__(self, left: int, title: str, low: float, high: float) -> None:
        self._left, self._low, self._high = left, low, high
        self.parts = [f'<text class="title" x="{left}" y="{TOP - 18}">{title}</text>']
        for share in (0.0, 0.5, 1.0):
            value = low + share * (high - low)
            y = self.y(value)
            self.parts.append(f'<line class="axis" opacity=".4" x1="{left}" x2="{left + PANEL}" ')
            self.parts.append(f'y1="{y:.1f}" y2="{y:.1f}"/>')
            self.text(left - 8, y + 4, f"{value:g}", "dim", "end")
        for step in (0, 20, 40):
            self.text(self.x(step), BOTTOM + 20, f"{step}", "dim", "middle")
        self.text(left + PANEL / 2, BOTTOM + 38, "step", "dim", "middle")

    def x(self, step: float) -> float:
        """Return a step's place."""
        return self._left + PANEL * step / NUM_STEPS

    def y(self, value: float) -> float:
        """Return a value's place."""
        return BOTTOM - (BOTTOM - TOP) * (value - self._low) / (self._high - self._low)

    def text(self, x: float, y: float, text: str, style: str, anchor: str = "start") -> None:
        """Write a text."""
        self.parts.append(
            f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
        )

    def arm(self, name: str, seeds: Sequence[Series]) -> None:
        """Draw every seed thin, and their mean thick."""
        mean = [fmean(values) for values in zip(*seeds, strict=True)]
        for series, style in [*((seed, "one") for seed in seeds), (mean, "mean")]:
            points = " ".join(f"{self.x(k):.1f},{self.y(v):.1f}" for k, v in enumerate(series))
            self.parts.append(f'<polyline class="{name} {style}" points="{points}"/>')


def smooth(series: Series) -> list[float]:
    """Return the mean of each step and those just before it."""
    return [fmean(series[max(0, k + 1 - SMOOTH) : k + 1]) for k in range(len(series))]


@dataclass(frozen=True, slots=True)
class ArmSeries:
    """An arm's series by seed, and its accuracy at the end."""

    reward: Sequence[Series]
    careless_weight: Sequence[Series]
    """Empty where it is fixed."""
    pass_at_1: float


def read(folder: Path) -> tuple[int, dict[str, ArmSeries]]:
    """Return the number of seeds that every arm has finished, and their series by arm."""
    grid = read_grid(GRID)
    set_name, runs = read_archive(folder, grid)
    by_arm = {arm: {run.seed: run for run in runs if run.arm == arm} for arm in grid.arms}
    seeds = [seed for seed in grid.seeds if all(seed in own for own in by_arm.values())]
    found = {}
    for arm, own in by_arm.items():
        steps = [own[seed].steps for seed in seeds]
        ends = [at_end(own[seed], set_name, "pass@1") for seed in seeds]
        found[arm] = ArmSeries(
            [numbers(rows, REWARD) for rows in steps],
            [weights for rows in steps if (weights := numbers(rows, CARELESS))],
            fmean(end for end in ends if end is not None),
        )
    return len(seeds), found


def draw(num_seeds: int, arms: Mapping[str, ArmSeries]) -> str:
    """Return the drawing."""
    weight = Panel(LEFTS[0], "Weight of the careless source", 0.0, 1.0)
    weight.arm("fixed", [[0.5] * NUM_STEPS])
    for arm in ("placebo", "learned"):
        weight.arm(arm, arms[arm].careless_weight)
    weight.text(weight.x(39), weight.y(0.93), "placebo: the same numbers, dealt at random",
                "t-placebo", "end")  # fmt: skip
    weight.text(weight.x(39), weight.y(0.22), "learned", "t-learned", "end")
    weight.text(weight.x(1), weight.y(0.52), "fixed", "t-fixed")
    reward = Panel(LEFTS[1], "Training reward, mean of 5 steps", 0.2, 0.6)
    for arm in ("fixed", "learned"):
        reward.arm(arm, [smooth(seed) for seed in arms[arm].reward])
    for arm, value in (("learned", 0.295), ("fixed", 0.255)):
        says = f"{arm}: held-out pass@1 {arms[arm].pass_at_1:.3f} at the end"
        reward.text(reward.x(39), reward.y(value), says, f"t-{arm}", "end")
    title = (
        "Learned weights of the sources of demonstrations against fixed ones; "
        f"{num_seeds} seeds each"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="t"><title id="t">{title}</title><style>{STYLE}</style>\n'
        + "\n".join([f'<text class="dim" x="{LEFTS[0]}" y="20">{title}</text>', *weight.parts])
        + "\n".join(["", *reward.parts, "</svg>", ""])
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(*read(STUDY)), encoding="utf-8")
