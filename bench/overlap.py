"""Step time at lag 1 over that at lag 0: `python bench/overlap.py` (2 cores, Linux).

Whole runs of the demo with `method.kind=rl` (bridge trains two to three times as long as it
generates here), lag 0 and lag 1 by turns. In both, every thread of the rollout actor and of vLLM's
processes is pinned to core 0, every thread of the learner to core 1; driver, reward pool and Ray's
daemons are left alone. Sizes are such that generating and training take about as long at lag 0,
which the output shows. A run counts with the median of its steps after the first three. Writes
bench/results.d/overlap.json.
"""

import argparse
import sys

from jobs import LEAN, by_turns, run
from report import of_ratios, save

CORES = {"rollout": 0, "learner": 1}
STAGES = ("step", "generate", "train", "wait_generation", "publish")


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], help="config override, such as a.b=c")
    given = parser.parse_args()
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for lag in by_turns((0, 1), given.repeats):
        lengths = (f"run.num_steps={given.steps}", f"rollout.max_policy_lag={lag}")
        row = run(("method.kind=rl", *LEAN, *given.set, *lengths), CORES)
        assert row["policy/lag"] == lag
        seconds[lag].append(row["time/step_s"])
        stages = {stage: round(row.get(f"time/{stage}_s", 0.0), 3) for stage in STAGES}
        sys.stdout.write(f"lag {lag}: {stages}\n")
        sys.stdout.flush()
    measured = of_ratios(
        "step at lag 1 over lag 0",
        [one / zero for zero, one in zip(seconds[0], seconds[1], strict=True)],
        0.7,
        higher_is_better=False,
        detail={
            "ours": sorted(seconds[1])[given.repeats // 2],
            "reference": sorted(seconds[0])[given.repeats // 2],
            "unit": "s",
        },
    )
    sys.stdout.write(f"{measured}\n")
    save("overlap", [measured])


if __name__ == "__main__":
    main()
