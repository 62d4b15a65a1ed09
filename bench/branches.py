"""What the shadow costs: `python bench/branches.py` (2 cores, Linux).

Whole runs of the demo by turns; a run counts with the mean of its steps after the first three, as
many as a whole number of re-syncs of the shadow, whose steps last longer.

    shared     bridge's learner seconds over rl's, over the ratio of the tokens they train (RL of
               both branches and SFT); rl's learner has two threads, bridge's two have one each
    own cores  bridge's step over `sum`'s, the same loss without a shadow: learner `joint` pinned to
               core 0 in both, `shadow` and the meta-controller to core 1

Writes bench/results.d/branches.json.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, median
from typing import Any

from jobs import LEAN, WARM_UP_STEPS, by_turns, rows_of
from report import Detail, Measure, of_ratios, save

SHARED = {"bridge": ("learner.num_threads=1",), "rl": ("learner.num_threads=2",)}
OWN = {"bridge": ("learner.num_threads=1",), "sum": ("learner.num_threads=1",)}
RESYNC_EVERY = 5
CORES = {"learner-joint": 0, "learner-shadow": 1, "meta-controller": 1}


Rows = list[dict[str, Any]]


def seconds_per_token(rows: Rows) -> float:
    """Return microseconds of the learners for each response token in the losses of all branches."""
    names = [f"tokens/trained_{name}" for name in ("rl", "sft", "shadow")]
    num_tokens = float(sum(row.get(name) or 0.0 for row in rows for name in names))
    return 1e6 * float(sum(row["time/train_s"] for row in rows)) / num_tokens


def seconds_per_step(rows: Rows) -> float:
    """Return the mean step."""
    return float(mean(row["time/step_s"] for row in rows))


def compare(
    name: str,
    kinds: Mapping[str, Sequence[str]],
    cores: Mapping[str, int],
    figure: Callable[[Rows], float],
    limit: float,
    unit: str,
    given: argparse.Namespace,
) -> Measure:
    """Run both kinds by turns and compare a figure of their steps."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind in by_turns(tuple(kinds), given.repeats):
        num_steps = given.resyncs * RESYNC_EVERY + WARM_UP_STEPS
        sets = [f"method.kind={kind}", f"run.num_steps={num_steps}", *LEAN, *kinds[kind]]
        sets += [f"shadow.resync_every={RESYNC_EVERY}"] * (kind == "bridge")
        found[kind].append(figure(rows_of(sets, cores)))
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
    parser.add_argument("--resyncs", type=int, default=2, help="of the shadow, in a run")
    given = parser.parse_args()
    shared = "bridge's learner seconds a token over rl's, shared cores"
    own = "bridge's step over sum's, a core for each branch"
    measures = [
        compare(shared, SHARED, {}, seconds_per_token, 1.1, "us/token", given),
        compare(own, OWN, CORES, seconds_per_step, 1.15, "s", given),
    ]
    for measured in measures:
        sys.stdout.write(f"{measured}\n")
    save("branches", measures)


if __name__ == "__main__":
    main()
