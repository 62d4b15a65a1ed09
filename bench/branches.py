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
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from jobs import LEAN, by_turns, run
from report import Detail, Measure, of_ratios, save

SHARED = {"bridge": ("learner.num_threads=1",), "rl": ("learner.num_threads=2",)}
OWN = {"bridge": ("learner.num_threads=1",), "sum": ("learner.num_threads=1",)}
CORES = {"learner-joint": 0, "learner-rl_only": 1, "meta-controller": 1}


def seconds_per_token(row: dict[str, float]) -> float:
    """Return microseconds of the learners for each response token in the losses of all branches."""
    names = ("rl", "sft", "shadow")
    return 1e6 * row["time/train_s"] / sum(row.get(f"tokens/trained_{n}", 0.0) for n in names)


def compare(
    name: str,
    kinds: Mapping[str, Sequence[str]],
    cores: Mapping[str, int],
    figure: Callable[[dict[str, float]], float],
    limit: float,
    unit: str,
    given: argparse.Namespace,
) -> Measure:
    """Run both kinds by turns and compare a figure of their steps."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind in by_turns(tuple(kinds), given.repeats):
        sets = (f"method.kind={kind}", f"run.num_steps={given.steps}", *LEAN, *kinds[kind])
        found[kind].append(figure(run(sets, cores)))
        sys.stdout.write(f"{kind}: {found[kind][-1]:.4g} {unit}\n")
        sys.stdout.flush()
    ours, reference = found.values()
    detail: Detail = {"ours": median(ours), "reference": median(reference), "unit": unit}
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    return of_ratios(name, ratios, limit, higher_is_better=False, detail=detail)


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    given = parser.parse_args()
    shared = "bridge's learner seconds a token over rl's, shared cores"
    own = "bridge's step over sum's, a core for each branch"
    measures = [
        compare(shared, SHARED, {}, seconds_per_token, 1.1, "us/token", given),
        compare(own, OWN, CORES, lambda row: row["time/step_s"], 1.15, "s", given),
    ]
    for measured in measures:
        sys.stdout.write(f"{measured}\n")
    save("branches", measures)


if __name__ == "__main__":
    main()
