"""What the shadow costs: `python bench/branches.py` (2 cores, Linux).

Whole runs of the demo by turns; a run counts with the median of its steps after the first three.

    shared     bridge's learner seconds over rl's, over the ratio of the tokens they train (RL of
               both branches and SFT); rl's learner has two threads, bridge's two have one each
    own cores  bridge's step over `sum`'s, the same loss without a shadow: learner `joint` pinned to
               core 0 in both, `rl_only` and the meta-controller to core 1

Writes bench/results.d/branches.json.
"""

import argparse
import sys

from jobs import LEAN, by_turns, run
from report import Measure, of_ratios, save

SHARED = {"bridge": ("learner.num_threads=1",), "rl": ("learner.num_threads=2",)}
OWN = {"bridge": ("learner.num_threads=1",), "sum": ("learner.num_threads=1",)}
CORES = {"learner-joint": 0, "learner-rl_only": 1, "meta-controller": 1}


def trained_tokens(row: dict[str, float]) -> float:
    """Return the response tokens in the losses of all branches."""
    names = ("rl", "sft", "shadow")
    return sum(row.get(f"tokens/trained_{name}", 0.0) for name in names)


def compare_shared(repeats: int, steps: int) -> Measure:
    """Both branches on both cores."""
    costs: dict[str, list[float]] = {kind: [] for kind in SHARED}
    for kind in by_turns(tuple(SHARED), repeats):
        sets = (f"method.kind={kind}", f"run.num_steps={steps}", *LEAN, *SHARED[kind])
        row = run(sets, {})
        tokens = trained_tokens(row)
        costs[kind].append(1e6 * row["time/train_s"] / tokens)
        sys.stdout.write(f"{kind}: {row['time/train_s']:.3f} s for {tokens:.0f} tokens\n")
        sys.stdout.flush()
    return of_ratios(
        "bridge's learner seconds a token over rl's, shared cores",
        [b / r for b, r in zip(costs["bridge"], costs["rl"], strict=True)],
        1.1,
        higher_is_better=False,
        detail={
            "ours": sorted(costs["bridge"])[repeats // 2],
            "reference": sorted(costs["rl"])[repeats // 2],
            "unit": "us/token",
        },
    )


def compare_own(repeats: int, steps: int) -> Measure:
    """A core for each branch."""
    seconds: dict[str, list[float]] = {kind: [] for kind in OWN}
    for kind in by_turns(tuple(OWN), repeats):
        sets = (f"method.kind={kind}", f"run.num_steps={steps}", *LEAN, *OWN[kind])
        row = run(sets, CORES)
        seconds[kind].append(row["time/step_s"])
        sys.stdout.write(f"{kind}: {row['time/step_s']:.3f} s, train {row['time/train_s']:.3f} s\n")
        sys.stdout.flush()
    return of_ratios(
        "bridge's step over sum's, a core for each branch",
        [b / s for b, s in zip(seconds["bridge"], seconds["sum"], strict=True)],
        1.15,
        higher_is_better=False,
        detail={
            "ours": sorted(seconds["bridge"])[repeats // 2],
            "reference": sorted(seconds["sum"])[repeats // 2],
            "unit": "s",
        },
    )


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    given = parser.parse_args()
    measures = [compare(given.repeats, given.steps) for compare in (compare_shared, compare_own)]
    for measured in measures:
        sys.stdout.write(f"{measured}\n")
    save("branches", measures)


if __name__ == "__main__":
    main()
