"""Draws docs/learned-sources.svg from the stored series in docs/learned-sources.json: `make docs`.

The series are those of runs of configs/local/mixed-sources.yaml (28 November 2026), 40 steps, seeds
0 to 4, with learned, fixed and placebo weights of the sources; rewards and weights of every step,
and pass@1 on 512 held-out items before and after. The drawing follows the reader's light or dark
theme.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

FOLDER = Path(__file__).parent
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


def draw(stored: dict[str, Any]) -> str:
    """Return the drawing."""
    after = {arm: fmean(seed[-1] for seed in rows["pass@1"]) for arm, rows in stored.items()}
    weight = Panel(LEFTS[0], "Weight of the careless source", 0.0, 1.0)
    weight.arm("fixed", [[0.5] * NUM_STEPS])
    weight.arm("placebo", stored["placebo"]["careless_weight"])
    weight.arm("learned", stored["learned"]["careless_weight"])
    weight.text(weight.x(39), weight.y(0.93), "placebo: the same numbers, dealt at random",
                "t-placebo", "end")  # fmt: skip
    weight.text(weight.x(39), weight.y(0.22), "learned", "t-learned", "end")
    weight.text(weight.x(1), weight.y(0.52), "fixed", "t-fixed")
    reward = Panel(LEFTS[1], "Training reward, mean of 5 steps", 0.2, 0.6)
    for arm in ("fixed", "learned"):
        reward.arm(arm, [smooth(seed) for seed in stored[arm]["reward"]])
    for arm, value in (("learned", 0.295), ("fixed", 0.255)):
        says = f"{arm}: held-out pass@1 {after[arm]:.3f} at the end"
        reward.text(reward.x(39), reward.y(value), says, f"t-{arm}", "end")
    title = "Learned weights of the sources of demonstrations against fixed ones; 5 seeds each"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="t"><title id="t">{title}</title><style>{STYLE}</style>\n'
        + "\n".join([f'<text class="dim" x="{LEFTS[0]}" y="20">{title}</text>', *weight.parts])
        + "\n".join(["", *reward.parts, "</svg>", ""])
    )


def main(file: Path) -> None:
    """Write the drawing."""
    stored = json.loads((FOLDER / "learned-sources.json").read_text())
    file.write_text(draw(stored), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
