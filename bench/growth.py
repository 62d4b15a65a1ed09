"""How a step's cost grows: `python bench/growth.py [CURVE...]`.

Whole runs of `method.kind=rl` at lag 0, one per point; seconds of a step and of its parts, medians
over the steps after the first three. The controller's curve is its scheduling alone, with scripted
engines (bench/controller.py). Prints Markdown with curves, the section of docs/results.md, and
writes bench/results.d/growth.json.

| curve | varied | held |
|---|---|---|
| prompts | 8 to 64 prompts | demo, 8 samples |
| length | responses of at most 8 to 64 tokens | 135 M, 4 prompts x 8 samples |
| model | 0.8 M, 135 M | 8 prompts x 8 samples x at most 24 tokens |
| ranks | 1 and 2 learner ranks, a core each | demo |
| engines | 1 and 2 rollout actors, a core each | demo |
| controller | 1 to 1,024 engines | 256 groups a step |
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import controller
from jobs import DEMO, LEAN, run
from report import RESULTS

SMOLLM2 = "configs/local/smollm2-chain-sum.yaml"
PARTS = ("step", "generate", "train", "publish")
STEPS = 7


@dataclass(frozen=True, slots=True)
class Point:
    """One run."""

    x: str
    figures: dict[str, float]
    """By name with unit."""


def measure(x: object, config: str, *overrides: str) -> Point:
    """Train and return the step's parts."""
    row = run(("method.kind=rl", *LEAN, f"run.num_steps={STEPS}", *overrides), {}, config)
    point = Point(str(x), {f"{part}, s": row.get(f"time/{part}_s", 0.0) for part in PARTS})
    sys.stderr.write(f"{point}\n")
    return point


def prompts() -> list[Point]:
    """Vary the prompts of a step."""
    return [measure(n, DEMO, f"prompts.per_step={n}") for n in (8, 16, 32, 64)]


def length() -> list[Point]:
    """Vary the longest response; SmolLM2 seldom ends one early."""
    return [
        measure(n, SMOLLM2, "prompts.per_step=4", f"rollout.max_tokens={n}")
        for n in (8, 16, 32, 64)
    ]


def model() -> list[Point]:
    """Vary the model."""
    sizes = ("prompts.per_step=8", "rollout.max_tokens=24")
    return [measure("0.8 M", DEMO, *sizes), measure("135 M", SMOLLM2, *sizes)]


def ranks() -> list[Point]:
    """Vary the learner's ranks."""
    return [measure(n, DEMO, f"learner.num_ranks={n}") for n in (1, 2)]


def engines() -> list[Point]:
    """Vary the rollout actors."""
    cpus = "placement.rollout.cpus=0.7"
    return [measure(n, DEMO, f"rollout.num_actors={n}", cpus) for n in (1, 2)]


def scheduling() -> list[Point]:
    """Vary the scripted engines."""
    found = []
    for number in (1, 4, 16, 64, 256, 1024):
        spent = controller.simulate(256, 12, traces=False, num_engines=number)["ms_per_group"]
        found.append(Point(str(number), {"ms a group": spent}))
    return found


CURVES: dict[str, Callable[[], list[Point]]] = {
    "prompts": prompts,
    "length": length,
    "model": model,
    "ranks": ranks,
    "engines": engines,
    "controller": scheduling,
}


def markdown(name: str, points: list[Point]) -> str:
    """Return a table, and a chart where there are enough points for one."""
    first, *others = points[0].figures
    lines = [f"| {' | '.join((name, first, *others))} |", "|---" * (len(others) + 2) + "|"]
    for point in points:
        cells = " | ".join(f"{figure:.4g}" for figure in point.figures.values())
        lines.append(f"| {point.x} | {cells} |")
    if len(points) > 2:
        heights = [point.figures[first] for point in points]
        labels = ", ".join(f'"{point.x}"' for point in points)
        lines += ["", "```mermaid", "xychart-beta", f'    x-axis "{name}" [{labels}]']
        lines.append(f'    y-axis "{first}" 0 --> {max(heights):.4g}')
        lines += [f"    line [{', '.join(f'{height:.4g}' for height in heights)}]", "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", nargs="*", help=f"of {', '.join(CURVES)}; all")
    given = parser.parse_args()
    found: dict[str, list[Point]] = {}
    for name in given.curves or CURVES:
        found[name] = CURVES[name]()
        sys.stdout.write(markdown(name, found[name]) + "\n")
        sys.stdout.flush()
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = {name: [asdict(point) for point in points] for name, points in found.items()}
    (RESULTS / "growth.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
